package pglock

// AcquireAgain is a copy of the request that a Lock has sent last, and returns what the
// server makes of it.
func (l *Lock) AcquireAgain(secret string) (verdict string, err error) {
	a, err := l.acquire(secret)
	return a.verdict, err
}

// Secret is that of the hold.
func (l *Lock) Secret() string { return l.hold.secret }
