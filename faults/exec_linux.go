package main

import (
	"os/exec"
	"syscall"
)

// dieTogether has a process killed when the suite is.
func dieTogether(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// apart gives a process that dies with the suite a network of its own, and files that
// it can cover others with.
func apart(cmd *exec.Cmd) {
	dieTogether(cmd)
	cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNET | syscall.CLONE_NEWNS
}
