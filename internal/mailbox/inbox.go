package mailbox

// A Delivery is what the handler receives.
type Delivery struct {
	Data    []byte
	From    string   // the identity of the sender's process; empty: it is this one
	Context []byte   // what else the sender has said; nil: nothing
	Request *Request // nil: its sender does not wait for a reply
}

// An inbox is the door for whole messages. One goroutine at a time uses it.
type inbox interface {
	try(Delivery) bool
	wait(d Delivery, data chan<- []byte, exit, kick, caller <-chan struct{}) (took, whole bool)
}

// An Inbox is an inbox for messages of a form that its owner gives them.
type Inbox[M any] struct {
	C     chan M // unbuffered
	form  func(spare M, d Delivery) M
	spare M // which nobody has received
}

// NewInbox makes an inbox. Form may use the spare message, which is blank at first.
func NewInbox[M any](form func(spare M, d Delivery) M) *Inbox[M] {
	return &Inbox[M]{C: make(chan M), form: form}
}

func (i *Inbox[M]) try(d Delivery) bool {
	m := i.form(i.spare, d)
	var none M
	select {
	case i.C <- m:
		i.spare = none
		return true
	default:
		i.spare = m
		return false
	}
}

// wait offers a delivery at both doors until it is taken at one, as a whole or its
// data alone, or there is something else to do.
func (i *Inbox[M]) wait(d Delivery, data chan<- []byte, exit, kick, caller <-chan struct{}) (took, whole bool) {
	m := i.form(i.spare, d)
	var none M
	i.spare = none
	select {
	case i.C <- m:
		return true, true
	case data <- d.Data:
		took = true
	case <-exit: // from here on the handler can't take it
	case <-kick:
	case <-caller:
	}
	i.spare = m
	return took, false
}
