package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// lay makes a tap device in each of two network namespaces, which live by processes,
// and carries the frames from one to the other, late or not at all. Netem does that as
// well, but not every kernel has it.
func (w cable) lay(pid int, device string, farPid int, farDevice string, onClose func(func())) error {
	here, err := tap(pid, device)
	if err != nil {
		return err
	}
	onClose(func() { here.Close() })
	there, err := tap(farPid, farDevice)
	if err != nil {
		return err
	}
	onClose(func() { there.Close() })
	go w.carry(here, there)
	go w.carry(there, here)
	return nil
}

func (w cable) carry(from, to *os.File) {
	type frame struct {
		due   time.Time
		bytes []byte
	}
	way := make(chan frame, 10000) // what is more is lost
	defer close(way)
	go func() {
		for f := range way {
			time.Sleep(time.Until(f.due))
			_, _ = to.Write(f.bytes) // lost, as anything can be
		}
	}()
	for {
		b := make([]byte, 2048)
		n, err := from.Read(b)
		if err != nil {
			return
		}
		if rand.Float64() < w.loss {
			continue
		}
		select {
		case way <- frame{time.Now().Add(w.late), b[:n]}:
		default:
		}
	}
}

// tap makes a device in the network namespace of a process.
func tap(pid int, device string) (*os.File, error) {
	// The thread comes back: were it left to end, the children that it has started
	// would be killed with it (see dieTogether).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer home.Close()
	space, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, err
	}
	defer space.Close()
	if err := unix.Setns(int(space.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("a network namespace: %w", err)
	}
	defer func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(err)
		}
	}()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(device)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("a tap device: %w", err)
	}
	return os.NewFile(uintptr(fd), device), nil
}
