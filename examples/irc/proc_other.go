//go:build !linux

package main

import (
	"os/exec"
	"syscall"
)

// startChild starts cmd in a process group of its own, so that Ctrl-C reaches
// the supervisor only. A node ends when its stdin does; the kernel wakes a
// frozen one for that, as its group has lost its parent (SIGHUP, SIGCONT).
func startChild(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd.Start()
}
