package main

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// startChild starts cmd so that the kernel kills it, frozen or not, when this
// process ends. Linux takes the end of the thread that forked for the end of
// the parent, so one thread that lives as long as the process does all the
// forking.
func startChild(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	err := make(chan error)
	forks() <- func() { err <- cmd.Start() }
	return <-err
}

var forks = sync.OnceValue(func() chan<- func() {
	c := make(chan func())
	go func() {
		runtime.LockOSThread()
		for fork := range c {
			fork()
		}
	}()
	return c
})
