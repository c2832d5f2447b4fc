package main

// limits is what holds gone back, by load or by work: the explanation that the
// report gives where somebody else is ahead, or a goal was not reached. It is
// shown only while that is so. An explanation is from profiles, and is written
// anew when the code below it is.
var limits = map[string]string{
	workTake.what: "gone keeps the counter of fencing tokens, a second key, and publishes the new TTL and that the lock is free. " +
		"That is what spares waiters the polling.",
	workExtend.what: "gone publishes the new TTL, which spares waiters the polling.",
	"256 callers": "A message is handed from goroutine to goroutine and its caller is woken by itself, on either side: that, and the " +
		"locks around it, is about 2 µs of Go's CPU a message and side, however full the frames are (some 70 messages). A quarter of the " +
		"CPU is that of ZeroMQ's threads. A fifth of the two cores is idle while frames are on their way through four threads. Frames " +
		"held for more or fewer messages, earlier answers, and other numbers of threads changed nothing.",
	"batches": "With a select handler each message is handed over by itself on an unbuffered channel, about 1 µs of the holder's CPU; " +
		"taken in batches that falls away.",
	"1 caller": "A frame there and one back, each through a thread of ZeroMQ's and a goroutine on either side. Redis Streams and gRPC " +
		"read from their socket in the goroutine that waits, which saves two changes of thread.",
	loadRequests1.name: "A frame there and one back, as for 1 caller, and behind for the same reason: the reply is the receipt, too.",
	"same node":        "A copy, a look at the lease's clock, and a change of goroutine in each direction.",
	loadIDs.name: "Each message finds another handler parked, and its stack and mailbox cold; with one id the handler that runs takes " +
		"the next. The same is true of plain Go: 256 goroutines that send on 10,000 channels, each with a receiver of its own, do " +
		"0.22 to 0.38 of what they do on one.",
	loadOver10.name: overMany,
	loadOver30.name: overMany,
	idleWaits: "The holder publishes each Extend, so that waiters need not ask: here a thousand times a second, and each time a " +
		"thread is woken to read it.",
	idleHolds: "An Extend wakes its handler, the goroutine that calls Redis, and threads for both. The look at all leases once a " +
		"second is a tenth of it.",
	workPass.what: "Both hear a PUBLISH and then ask for the lock, in as many steps. Which is ahead differs from run to run by more than " +
		"what is between them.",
	workPassGone.what: "The lock's own, and then the handler's goroutine.",
	workCrash.what:    "Waiters look at a random time in the first 20 ms, so that many do not at once.",

	workTake.on("etcd").what: "A hold has a lease of its own: to grant it, to put the key with it and to revoke it are three writes, one " +
		"after the other; a session has its lease, and writes a key and deletes it. By its lease a hold is told from the one before, " +
		"and a request that comes late finds that it is over.",
	workPass.on("etcd").what: "Who waits for gone's lock hears that the key is gone, and then writes its own, and renews its lease beside " +
		"that. With Mutex and Election it has written its key before, in a queue, and reads once more or only hears.",
	workDeath.on("etcd").what: "The TTL counts from the last extension, which is a sixth of a TTL old when the holder dies. A session " +
		"extends by itself, so that up to a third of it has passed. Then etcd looks twice a second for leases that are over.",
	workIdleSent.on("etcd").what: "A waiter looks at the key and renews the lease that it has at hand once a TTL and id, as no client can " +
		"tell a watch that has fallen silent from one with nothing to say. Each is a call of some packets. Mutex and Election trust the watch.",
	workTake.on("PostgreSQL").what: "gone keeps the token when the row is free, and notifies when it is taken, too: senders wait for that, " +
		"to learn who holds it. The leader row is deleted, and only that is notified of; the advisory lock writes nothing.",
	workExtend.on("PostgreSQL").what: "The statement compares the hold's secret and token, so that one that comes late extends no other " +
		"hold, and decodes the id, which may be any bytes.",
	workPass.on("PostgreSQL").what: "Who waits for an advisory lock has asked already, and is answered by the release. With gone, as " +
		"with the leader row, it hears the notification and then asks.",
	workDeath.on("PostgreSQL").what: "An advisory lock has no TTL: it is free when the server reads the end of the connection, which comes " +
		"at once when a process dies, and not when a machine does.",
	workIdleConns.on("PostgreSQL").what: "Locks share up to four connections, and one more to listen.",
}

const overMany = "Each process has few messages at a time, at 30 some three to a frame. A frame wakes a thread of ZeroMQ's and one " +
	"of Go's on either side, and a goroutine that waits in C keeps its processor: Go's monitor looks every 20 µs, for " +
	"up to 10 ms, whether to take it away. With 30 processes on two cores that is a quarter of the CPU. To wait in " +
	"Go's poller instead brought 1.5 times the messages at 30 receivers, and cost a third of them at ten and 40 % " +
	"more time for one caller. Later acknowledgements and other windows changed nothing."

// unexplained stands where limits has nothing.
const unexplained = "What limits it has not been looked into."
