package etcdlock

// Watching reports whether a lock waits, with a watch that is live.
func Watching(l *Lock) bool {
	l.mu.Lock()
	w := l.watch
	l.mu.Unlock()
	if w == nil {
		return false
	}
	select {
	case <-w.up():
	default:
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.waiters[l.key()]) > 0
}
