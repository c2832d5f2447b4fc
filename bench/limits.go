package main

// limits is what holds gone back, by load or by work: the explanation that the
// report gives where somebody else is ahead, or a goal was not reached. It is
// shown only while that is so. An explanation is from profiles, and is written
// anew when the code below it is.
var limits = map[string]string{
	workTake.what: "gone keeps the counter of fencing tokens, a second key, and publishes the new TTL and that the lock is free. " +
		"That is what spares waiters the polling.",
	workExtend.what: "gone publishes the new TTL, which spares waiters the polling.",
	workCrash.what:  "Waiters look at a random time in the first 20 ms, so that many do not at once.",
}

// unexplained stands where limits has nothing.
const unexplained = "What limits it has not been looked into."
