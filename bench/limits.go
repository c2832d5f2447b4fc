package main

// limits is what holds gone back, by load or by work: the explanation that the
// report gives where somebody else is ahead, or a goal was not reached. It is
// shown only while that is so. An explanation is from profiles, and is written
// anew when the code below it is.
var limits = map[string]string{
	workTake.what: "gone also keeps the counter of fencing tokens, a second key, and publishes the new TTL and that the lock is free. " +
		"That spares waiters the polling.",
	workExtend.what: "gone publishes the new TTL, which spares waiters the polling.",
	"256 callers": "On either side a message goes from goroutine to goroutine, and its caller is woken for it alone. With the locks around " +
		"it that costs Go about 2 µs of CPU per message and side, however full the frames are (some 70 messages). ZeroMQ's " +
		"threads take a quarter of the CPU. A fifth of the two cores is idle while frames pass through four threads. Holding " +
		"frames back for more or fewer messages, earlier answers, and other numbers of threads changed nothing.",
	"batches": "A select handler gets each message by itself on an unbuffered channel, for about 1 µs of the holder's CPU. Batches " +
		"does without.",
	"1 caller": "A frame there and one back, each through a thread of ZeroMQ's and a goroutine on either side. Redis Streams and gRPC " +
		"read from their socket in the goroutine that waits, which saves two switches of threads.",
	loadRequests1.name: "A frame there and one back, for the same reason as with 1 caller: the reply is the receipt, too.",
	"same node":        "A copy, a look at the lease's clock, and a switch of goroutines in each direction.",
	loadIDs.name: "Each message has to wake another handler, whose stack and mailbox are cold; with one id the handler that runs takes " +
		"the next. Plain Go is the same: 256 goroutines that send on 10,000 channels, each with a receiver of its own, do 0.22 " +
		"to 0.38 of what they do on one.",
	loadOver10.name: overMany,
	loadOver30.name: overMany,
	idleWaits: "The holder publishes each Extend, so that waiters need not ask. Here that is a thousand times a second, and each time " +
		"a thread wakes to read it.",
	idleHolds: "An Extend wakes its handler, the goroutine that calls Redis, and threads for both. The look at all leases once a " +
		"second is a tenth of it.",
	workPass.what: "Both hear a PUBLISH and then ask for the lock, in as many steps. They differ less from each other than one run from " +
		"the next.",
	workPassGone.what: "The hand-over of the lock, and then the start of the handler's goroutine.",
	workCrash.what:    "Each waiter looks at a random time in the first 20 ms, so that not all do at once.",

	workTake.on("etcd").what: "Each hold has a lease of its own. To grant it, put the key with it and revoke it takes three writes, one after the " +
		"other. A session has its lease already, and only writes and deletes a key. The lease tells a hold from the one " +
		"before, so a late request finds that its hold is over.",
	workPass.on("etcd").what: "A waiter for gone's lock hears that the key is gone, then writes its own, and renews its lease meanwhile. With Mutex " +
		"and Election it has written its key before, in a queue, and only hears, or reads once more.",
	workDeath.on("etcd").what: "The TTL counts from the last extension, which is a sixth of a TTL old when the holder dies. A session extends by " +
		"itself, so up to a third of its TTL has passed by then. etcd looks for expired leases twice a second.",
	workIdleSent.on("etcd").what: "Once per TTL and id a waiter looks at the key and renews the lease that it has ready, as no client can tell a watch " +
		"that has fallen silent from one with nothing to say. Each is a call of some packets. Mutex and Election trust the " +
		"watch.",
	workTake.on("PostgreSQL").what: "gone keeps the token in the row while the lock is free, and notifies when it is taken, too, for senders that wait for " +
		"a holder. The leader row is deleted, and only that is notified; the advisory lock writes nothing.",
	workExtend.on("PostgreSQL").what: "The statement compares the hold's secret and token, so that a late one extends no other hold. And it decodes the id, " +
		"which may be any bytes.",
	workPass.on("PostgreSQL").what: "A waiter for an advisory lock has asked already, and the release answers it. With gone, as with the leader row, it " +
		"hears the notification and then asks.",
	workDeath.on("PostgreSQL").what: "An advisory lock has no TTL: it is free once the server sees the connection end. That comes at once when a process " +
		"dies, but not when a machine does.",
	workIdleConns.on("PostgreSQL").what: "An advisory lock waits in a connection of its own, and sends nothing meanwhile. gone's locks share up to four " +
		"connections and one more to listen, and look when a hold would have ended.",
}

const overMany = "Each process has few messages at a time: with 30 receivers some three per frame. A frame wakes a thread of ZeroMQ's " +
	"and one of Go's on either side. A goroutine that waits in C keeps its processor: Go's monitor looks every 20 µs, for " +
	"up to 10 ms, whether to take it away. With 30 processes on two cores that is a quarter of the CPU. Waiting in Go's " +
	"poller instead brought 1.5 times the messages at 30 receivers, but cost a third of them at ten, and 40 % more time " +
	"for one caller. Later acknowledgements and other windows changed nothing."

// unexplained stands where limits has nothing.
const unexplained = "The cause has not been looked for."
