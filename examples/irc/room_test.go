package main

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// A judge that never condemns proves nothing.
func TestTheJudgeCondemnsWhatMustNotHappen(t *testing.T) {
	for _, c := range []struct {
		crime  string
		events []string
		want   string // part of the verdict; "" is an acquittal
	}{
		{"none", []string{"+web1", "web1 says a", "-web1", "+web2", "web2 says b", "confirm a", "confirm b"}, ""},
		{"a repeated tenure of one node", []string{"+web1", "-web1", "+web1", "web1 says a", "confirm a"}, ""},
		{"two bots in the room", []string{"+web1", "+web2"}, "web2 joined while web1 was in the room"},
		{"a frozen bot and its successor", []string{"+web1", "excuse web1", "+web2", "web2 says a", "-web1", "confirm a"}, ""},
		{"a frozen bot speaks after its successor joined", []string{"+web1", "excuse web1", "+web2", "web1 says a"}, "web1 spoke"},
		{"a frozen bot speaks after its successor spoke", []string{"+web1", "excuse web1", "+web2", "web2 says a", "web1 says b"}, "web1 spoke"},
		{"an excuse is used twice", []string{"+web1", "excuse web1", "-web1", "+web1", "+web2"}, "web2 joined while web1"},
		{"a bot speaks that has left", []string{"+web1", "-web1", "web1 says a"}, "web1 spoke"},
		{"a line is said twice", []string{"+web1", "web1 says a", "web1 says a", "confirm a"}, "[a] was said 2 times"},
		{"a line is said again by the successor", []string{"+web1", "web1 says a", "-web1", "+web2", "web2 says a"}, "[a] was said 2 times"},
		{"a confirmed line is never said", []string{"+web1", "confirm a"}, "[a] was confirmed and never said"},
		{"an unconfirmed line is never said", []string{"+web1"}, ""},
		{"a line comes from nowhere", []string{"+web1", "web1 says z"}, "nobody posted"},
	} {
		t.Run(strings.ReplaceAll(c.crime, " ", "_"), func(t *testing.T) {
			r := newRoom(nil)
			r.post("a")
			r.post("b")
			for _, e := range c.events {
				who, tag, says := strings.Cut(e, " says ")
				switch {
				case says:
					r.hear(parseMessage(":" + who + "!~" + botUser + "@host PRIVMSG #gone :text [" + tag + "]"))
				case e[0] == '+':
					r.hear(parseMessage(":" + e[1:] + "!~" + botUser + "@host JOIN :#gone"))
				case e[0] == '-':
					r.hear(parseMessage(":" + e[1:] + "!~" + botUser + "@host QUIT :bye"))
				case strings.HasPrefix(e, "excuse "):
					r.excuse(e[len("excuse "):])
				case strings.HasPrefix(e, "confirm "):
					r.confirm(e[len("confirm "):])
				}
			}
			err := r.verdict()
			if c.want == "" && err != nil {
				t.Errorf("condemned: %v", err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("verdict %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestPeopleInTheRoomAreNotJudged(t *testing.T) {
	r := newRoom(nil)
	for _, line := range []string{
		":web1!~gonebot@host JOIN :#gone",
		":anna!~anna@host JOIN :#gone",
		":anna!~anna@host PRIVMSG #gone :hello [a]",
		":anna!~anna@host QUIT :bye",
	} {
		r.hear(parseMessage(line))
	}
	if err := r.verdict(); err != nil {
		t.Error(err)
	}
}

func TestNobodyInTheRoomCommandsTheTerminal(t *testing.T) {
	var heard strings.Builder
	r := newRoom(func(line string) { heard.WriteString(line) })
	for _, line := range []string{
		":anna!~anna@host JOIN :#gone",
		":anna!~anna@host PRIVMSG #gone :\x1b]0;title\x07 \x1b[2J \u009b2J \x9b2J hello",
		":web1!~gonebot@host PRIVMSG #gone :\x1b[2J what nobody posted",
		":anna!~anna@host QUIT :\x1b[2J bye",
	} {
		r.hear(parseMessage(line))
	}
	all := heard.String() + r.verdict().Error()
	for _, word := range []string{"hello", "what nobody posted", "bye"} {
		if !strings.Contains(all, word) {
			t.Errorf("%q is not shown", word)
		}
	}
	for _, c := range all {
		if c != '\n' && unicode.IsControl(c) || c == utf8.RuneError {
			t.Fatalf("%q is shown in %q", c, all)
		}
	}
}
