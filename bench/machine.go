package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	zmq4 "github.com/pebbe/zmq4"
)

// otherModules are those that no contender names but that matter.
var otherModules = []string{
	clientModule, "github.com/pebbe/zmq4", "github.com/nats-io/nats-server/v2", "github.com/nats-io/nats.go", "google.golang.org/grpc",
}

// thisMachine is what the figures depend on, as a list.
func thisMachine(s *server) (string, error) {
	redis, err := s.version()
	if err != nil {
		return "", err
	}
	lines := []string{
		fmt.Sprintf("- %s, %d CPUs, %s", cpu(), runtime.NumCPU(), kernel()),
		fmt.Sprintf("- %s, redis-server %s", runtime.Version(), redis),
	}
	var peers []string
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if slices.ContainsFunc(contenders, func(c contender) bool { return c.module == m.Path }) || slices.Contains(otherModules, m.Path) {
				peers = append(peers, strings.TrimPrefix(m.Path, "github.com/")+" "+m.Version)
			}
		}
	}
	major, minor, patch := zmq4.Version()
	lines = append(lines, "- "+strings.Join(peers, ", "), fmt.Sprintf("- libzmq %d.%d.%d", major, minor, patch))
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		lines = append(lines, "- load average at the start: "+strings.Fields(string(load))[0])
	}
	return strings.Join(lines, "\n") + "\n", nil
}

func cpu() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func kernel() string {
	out, err := exec.Command("uname", "-sr").Output()
	if err != nil {
		return runtime.GOOS
	}
	version, _, _ := strings.Cut(strings.TrimSpace(string(out)), "-") // what follows is its builder's
	return version
}
