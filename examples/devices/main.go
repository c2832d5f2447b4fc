// The demo of many ids: a thousand devices, each driven by exactly one of several
// processes, which share them evenly whatever comes and goes. See README.md.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"

	gone "github.com/Diggs/go-one"
)

func main() {
	run := runDemo
	if len(os.Args) > 1 && os.Args[1] == "worker" {
		os.Args = os.Args[1:]
		run = runWorker
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func runDemo(args []string) error {
	flags := flag.NewFlagSet("devices", flag.ExitOnError)
	redis := flags.String("redis", "", "Redis, as a URL; an embedded one by default")
	devices := flags.Int("devices", 1000, "number of devices")
	script := flags.Bool("script", false, "play the story without a person")
	_ = flags.Parse(args)
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	log, err := os.CreateTemp("", "gone-devices-*.log")
	if err != nil {
		return err
	}
	began := time.Now()
	d, err := startDemo(*redis, *devices, log)
	switch {
	case err != nil:
	case *script:
		err = d.play(ctx, func(format string, args ...any) { fmt.Printf(format+"\n", args...) })
	default:
		d.obey(ctx)
	}
	if err = errors.Join(err, d.close()); err != nil {
		return fmt.Errorf("\nIt did not hold:\n%w\nWhat the workers wrote is in %s", err, log.Name())
	}
	fmt.Printf("\nIt holds (%v).\n", time.Since(began).Round(time.Second))
	return os.Remove(log.Name())
}

// A demo is everything at once: Redis, the workers, and who asks the devices.
type demo struct {
	devices int
	redisd  *miniredis.Miniredis // nil when Redis is not ours
	crew    *crew
	node    *gone.Gone // sends, and never holds anything
	field   *field
}

// startDemo returns what there is to close also with an error.
func startDemo(redis string, devices int, log *os.File) (d *demo, err error) {
	d = &demo{devices: devices, crew: &crew{log: log}}
	if redis == "" {
		d.redisd = miniredis.NewMiniRedis()
		d.redisd.ClockTTL(true) // keys expire as they do in Redis, by the clock
		if err := d.redisd.Start(); err != nil {
			return d, err
		}
		redis = "redis://" + d.redisd.Addr()
	}
	quiet := gone.WithLogger(slog.New(slog.DiscardHandler))
	if d.node, err = newNode(redis, gone.WithWeight(0), quiet); err != nil {
		return d, err
	}
	d.field = watch(d.node, devices)
	d.crew.args = []string{"-redis", redis, "-devices", fmt.Sprint(devices)}
	for range 3 {
		err = errors.Join(err, d.crew.add())
	}
	return d, err
}

func (d *demo) close() (err error) {
	if d.field != nil {
		d.field.close()
	}
	err = d.crew.close()
	if d.node != nil {
		err = errors.Join(err, d.node.Close())
	}
	if d.redisd != nil {
		d.redisd.Close()
	}
	return err
}

// picture shows which worker has how many devices, a bar each.
func (d *demo) picture(newline string) string {
	var b strings.Builder
	held := d.field.held(time.Time{})
	for _, w := range d.crew.are(up, drains, down) {
		n := held[w.name]
		fmt.Fprintf(&b, "%-4s %-7s %6d %s%s", w.name, w.state, n, strings.Repeat("█", (100*n+d.devices-1)/d.devices), newline)
	}
	return b.String()
}

const help = `
add                     a worker joins
kill, drain, resume W   a worker: w2, or the first that can be
roll                    all are restarted, one after the other
move DEVICE W           say, move device7 w2
quit`

// obey does what a person types, below a picture of the spread.
func (d *demo) obey(ctx context.Context) {
	commands, done, said := make(chan string), make(chan error), ""
	go func() {
		defer close(commands)
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			commands <- in.Text()
		}
	}()
	const home, clear, clearLine, save, restore = "\033[H", "\033[2J", "\033[K\n", "\0337", "\0338"
	top := func() string { return home + d.picture(clearLine) + d.field.now().String() + clearLine }
	for busy, typed := false, false; ; {
		if typed { // the picture, above what is being typed
			fmt.Print(save + top() + restore)
		} else {
			fmt.Print(clear + top() + help + "\n\n" + said + "\n> ")
		}
		typed = false
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
			typed = true
		case err := <-done:
			busy, said = false, "done"
			if err != nil {
				said = err.Error()
			}
		case command, open := <-commands:
			switch {
			case !open || command == "quit":
				return
			case busy:
				said = "one after the other, please"
			default:
				busy, said = true, command+" …"
				d.field.begin()
				go func() { done <- d.do(ctx, strings.Fields(command)) }()
			}
		}
	}
}

func (d *demo) do(ctx context.Context, words []string) error {
	words = append(words, "", "", "") // what was not typed
	switch words[0] {
	case "":
		return nil
	case "add":
		return d.crew.add()
	case "kill":
		return d.crew.kill(words[1])
	case "drain":
		return d.crew.drain(words[1])
	case "resume":
		return d.crew.resume(words[1])
	case "roll":
		return d.crew.roll()
	case "move":
		w, err := d.crew.find(words[2], up)
		if err != nil {
			return err
		}
		return d.node.Move(ctx, words[1], w.addr)
	}
	return fmt.Errorf("%q is no command", words[0])
}
