//go:build !linux

package main

import "os/exec"

// dieTogether can't be had here; nodes end with their stdin.
func dieTogether(*exec.Cmd) {}

// apart can't be had, either.
func apart(*exec.Cmd) {}
