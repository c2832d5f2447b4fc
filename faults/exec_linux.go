package main

import (
	"os/exec"
	"syscall"
)

// dieTogether has a process killed when the suite is.
func dieTogether(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
