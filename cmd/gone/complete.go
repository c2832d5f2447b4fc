package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
)

// completer is what the scripts call this command with: the words before the cursor, the
// one at it last.
const completer = "__complete"

// In bash a colon ends a word, and what stands before it must not come again.
const bashScript = `_gone() {
	local line words cur
	line=${COMP_LINE:0:COMP_POINT}
	read -ra words <<<"$line"
	[[ $line == *[[:space:]] ]] && words+=("")
	cur=${words[${#words[@]}-1]}
	mapfile -t COMPREPLY < <("${words[0]}" __complete "${words[@]:1}" 2>/dev/null)
	if [[ $cur == *:* && $COMP_WORDBREAKS == *:* ]]; then
		COMPREPLY=("${COMPREPLY[@]#"${cur%"${cur##*:}"}"}")
	fi
}
complete -o default -F _gone gone
`

const zshScript = `_gone() {
	local -a found
	found=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
	if [[ -n "${found[1]}" ]]; then compadd -a found; else _files; fi
}
compdef _gone gone
`

const fishScript = `complete -c gone -f -a '(gone __complete (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
complete -c gone -F -n 'string match -qr -- "^-?-(keys|allowed|etcd-ca|etcd-cert|etcd-key)\$" (commandline -opc)[-1]'
`

var scripts = map[string]string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}

func (s *session) completion(args []string) error {
	script, ok := scripts[args[0]]
	if !ok {
		return misuse("completion is for bash, zsh and fish, not for %q", args[0])
	}
	_, err := io.WriteString(s.out, script)
	return err
}

// completeMost is the patience of whoever presses the tab key, unless a timeout is set.
const completeMost = time.Second

// complete prints what the last word may become, a line each.
func (s *session) complete(words []string) {
	if len(words) == 0 {
		return
	}
	before, cur := words[:len(words)-1], words[len(words)-1]
	for _, may := range s.candidates(before, cur) {
		if strings.HasPrefix(may, cur) && plain(may) {
			fmt.Fprintln(s.out, may)
		}
	}
	s.leave()
}

// plain reports whether a word needs no quotes in any shell.
func plain(word string) bool {
	return strings.IndexFunc(word, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_./:,@+%", r)
	}) < 0
}

func (s *session) candidates(before []string, cur string) (all []string) {
	flags := s.flags()
	s.load.define(flags)
	var args []string // without options
	for i := 0; i < len(before); i++ {
		name, isOption := strings.CutPrefix(before[i], "-")
		f := flags.Lookup(strings.TrimPrefix(name, "-"))
		switch {
		case !isOption:
			args = append(args, before[i])
		case f == nil || f.Name == "v":
		case i == len(before)-1 && f.Name == "o":
			return []string{"table", "json"}
		case i == len(before)-1:
			return nil // its value is the user's
		default:
			i++
		}
	}
	if strings.HasPrefix(cur, "-") {
		flags.VisitAll(func(f *flag.Flag) { all = append(all, "-"+f.Name) })
		return all
	}
	if len(args) == 0 {
		for _, c := range commands {
			all = append(all, c.name)
		}
		return all
	}
	c, err := find(args[0])
	if n := len(args) - 1; err == nil && n < len(c.args) {
		return s.values(c.args[n], before)
	}
	return nil
}

// values are those of an argument, as far as they are known soon.
func (s *session) values(what string, before []string) (all []string) {
	if what == "shell" {
		return []string{"bash", "zsh", "fish"}
	}
	if _, _, err := s.parse(before); err != nil {
		return nil
	}
	s.verbose = false
	if s.timeout == usual {
		s.timeout = completeMost
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
	defer cancel()
	s.ctx = ctx
	if s.join("") != nil {
		return nil
	}
	if what == "node" {
		nodes, _ := s.list()
		for _, n := range nodes {
			all = append(all, n.Addr)
		}
		return all
	}
	report, _ := s.report()
	for _, n := range report.Nodes {
		if n.Status == nil {
			continue
		}
		for _, t := range n.Status.Tenures {
			all = append(all, t.ID)
		}
	}
	return all
}
