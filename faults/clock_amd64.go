//go:build linux

package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
)

// Nobody can set a clock for one process alone, and Go reads clocks without
// libc, where faketime would sit. But it reads them through the vDSO, of which
// each process has a private copy: there the reading is replaced by a system
// call and, for CLOCK_REALTIME and CLOCK_MONOTONIC, an addition. Go's time.Now
// and all its timers go by that; CLOCK_BOOTTIME and the clock of the logs are
// system calls and remain the kernel's.
//
//	mov eax, 228           clock_gettime(edi, rsi)
//	syscall
//	cmp edi, 1
//	ja end
//	mov ecx, edi
//	lea rdx, [rip+8]       what is after end: seconds to add, of either clock
//	mov rcx, [rdx+rcx*8]
//	add [rsi], rcx
//	end: ret
var shiftedClock = []byte{
	0xb8, 0xe4, 0x00, 0x00, 0x00,
	0x0f, 0x05,
	0x83, 0xff, 0x01,
	0x77, 0x10,
	0x89, 0xf9,
	0x48, 0x8d, 0x15, 0x08, 0x00, 0x00, 0x00,
	0x48, 0x8b, 0x0c, 0xca,
	0x48, 0x01, 0x0e,
	0xc3,
}

// shiftClock sets by how many seconds a clock of a process is off. The process
// should be stopped the first time, as code that it may be in is replaced.
func shiftClock(pid, clock int, seconds int64) error {
	// This file writes to pages that the process itself may not write to.
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	entry, err := vdsoEntry(pid, mem, "__vdso_clock_gettime")
	if err != nil {
		return err
	}
	code := make([]byte, len(shiftedClock))
	if _, err := mem.ReadAt(code, entry); err != nil {
		return err
	}
	if !bytes.Equal(code, shiftedClock) {
		if _, err := mem.WriteAt(append(shiftedClock[:len(code):len(code)], make([]byte, 16)...), entry); err != nil {
			return err
		}
	}
	_, err = mem.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(seconds)), entry+int64(len(code)+8*clock))
	return err
}

// vdsoEntry is the address of a function in a process's vDSO.
func vdsoEntry(pid int, mem *os.File, name string) (int64, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		if !strings.Contains(line, "[vdso]") {
			continue
		}
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			return 0, err
		}
		image := make([]byte, to-from)
		if _, err := mem.ReadAt(image, from); err != nil {
			return 0, err
		}
		f, err := elf.NewFile(bytes.NewReader(image))
		if err != nil {
			return 0, err
		}
		symbols, err := f.DynamicSymbols()
		if err != nil {
			return 0, err
		}
		for _, s := range symbols {
			if s.Name == name {
				return from + int64(s.Value), nil
			}
		}
	}
	return 0, errors.New("no " + name + " in the process")
}
