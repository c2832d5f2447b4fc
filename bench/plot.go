package main

import (
	"image/color"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// A chart has lines.
type chart struct {
	title, x, y string
	logX, logY  bool
	lines       []curve
}

type curve struct {
	name   string
	points plotter.XYs
	dots   bool
}

// palette is told apart also by those who see no red or green, and on black.
var palette = []color.RGBA{
	{0x00, 0x72, 0xb2, 0xff},
	{0xd5, 0x5e, 0x00, 0xff},
	{0x00, 0x9e, 0x73, 0xff},
	{0xcc, 0x79, 0xa7, 0xff},
	{0xe6, 0x9f, 0x00, 0xff},
	{0x56, 0xb4, 0xe9, 0xff},
	{0x50, 0x50, 0x50, 0xff},
}

func (c chart) draw(file string) error {
	p := plot.New()
	p.BackgroundColor = color.White
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = c.title, c.x, c.y
	p.Title.Padding = vg.Points(8)
	for _, f := range []*font.Font{&p.Title.TextStyle.Font, &p.X.Label.TextStyle.Font, &p.Y.Label.TextStyle.Font, &p.X.Tick.Label.Font, &p.Y.Tick.Label.Font, &p.Legend.TextStyle.Font} {
		f.Variant = "Sans"
	}
	if c.logX {
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	}
	if c.logY {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	}
	p.Add(plotter.NewGrid())
	for i, l := range c.lines {
		line, dots, err := plotter.NewLinePoints(l.points)
		if err != nil {
			return err
		}
		line.Color, line.Width = palette[i%len(palette)], vg.Points(1.5)
		dots.Color, dots.Shape, dots.Radius = line.Color, draw.CircleGlyph{}, vg.Points(2.5)
		p.Add(line)
		if l.dots {
			p.Add(dots)
		}
		if len(c.lines) > 1 {
			p.Legend.Add(l.name, line)
		}
	}
	if !c.logY {
		p.Y.Min = 0
	}
	if c.logX { // room for the last number
		p.X.Max *= 1.5
	}
	p.Legend.Padding = vg.Points(2)
	p.Legend.Top, p.Legend.Left = c.empty(p)
	p.Legend.XOffs = vg.Points(8)
	if !p.Legend.Left {
		p.Legend.XOffs = -p.Legend.XOffs
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return p.Save(16*vg.Centimeter, 9*vg.Centimeter, file)
}

// empty is the corner in which the fewest points are.
func (c chart) empty(p *plot.Plot) (top, left bool) {
	in := map[[2]bool]int{}
	for _, l := range c.lines {
		for _, at := range l.points {
			x, y := p.X.Norm(at.X), p.Y.Norm(at.Y)
			if x < 0.4 || x > 0.6 {
				in[[2]bool{y > 0.5, x < 0.5}]++
			}
		}
	}
	best := [2]bool{true, true}
	for _, corner := range [][2]bool{{true, false}, {false, true}, {false, false}} {
		if in[corner] < in[best] {
			best = corner
		}
	}
	return best[0], best[1]
}

// points pairs two lists.
func points(x, y []float64) plotter.XYs {
	xys := make(plotter.XYs, len(x))
	for i := range x {
		xys[i] = plotter.XY{X: x[i], Y: y[i]}
	}
	return xys
}
