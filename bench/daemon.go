package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// A daemon is the process of a server that this one has started.
type daemon struct {
	cmd   *exec.Cmd
	alive io.Closer
	out   *bytes.Buffer
}

// The shell outlives whatever ends this process, and takes the server along.
const serve = `trap "" INT TERM; "$@" & read -r end; kill -"$0" $!; wait`

// start starts a server that is ended by a signal: KILL, or what has it end its other
// processes, too.
func start(server *exec.Cmd, end string) (*daemon, error) {
	if server.Err != nil {
		return nil, fmt.Errorf("make bench installs what is needed: %w", server.Err)
	}
	d := &daemon{cmd: exec.Command("sh", append([]string{"-c", serve, end, server.Path}, server.Args[1:]...)...), out: &bytes.Buffer{}}
	d.cmd.Dir, d.cmd.SysProcAttr = server.Dir, server.SysProcAttr
	d.cmd.Stdout, d.cmd.Stderr = d.out, d.out
	var err error
	if d.alive, err = d.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	return d, d.cmd.Start()
}

func (d *daemon) stop() {
	_ = d.alive.Close()
	_ = d.cmd.Wait()
}

// answers waits until the server does, and stops it if it does not.
func (d *daemon) answers(ask func() error) (err error) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if err = ask(); err == nil {
			return nil
		}
	}
	d.stop()
	return fmt.Errorf("%s does not answer: %w\n%s", d.cmd.Args[4], err, d.out)
}

// inMemory makes a directory for a server's data, where there is such a place: a disk
// would have each figure wait for what others write.
func inMemory() (dir string, err error) {
	if dir, err = os.MkdirTemp("/dev/shm", "gone"); err != nil {
		dir, err = os.MkdirTemp("", "gone")
	}
	return dir, err
}
