package instance

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestLines(t *testing.T) {
	long := strings.Repeat("x", maxLine+10)
	for _, c := range []struct {
		name   string
		writes []string
		want   []string // messages; a + stands for a line that was cut
	}{
		{"lines", []string{"a\nb\n"}, []string{"a", "b"}},
		{"pieces", []string{"a", "b\nc", "\n"}, []string{"ab", "c"}},
		{"no end", []string{"a\nb"}, []string{"a", "b"}},
		{"empty line", []string{"\n\n"}, []string{"", ""}},
		{"carriage return", []string{"a\r\n"}, []string{"a"}},
		{"binary", []string{"\x00\xff\xfe\x1b[2J\n"}, []string{"\x00\uFFFD\x1b[2J"}},
		{"long", []string{long, long, "\nnext\n"}, []string{long[:maxLine] + "+", "next"}},
		{"exactly", []string{long[:maxLine] + "\n"}, []string{long[:maxLine]}},
		{"nothing", nil, nil},
	} {
		var got []string
		l := &lines{log: slog.New(slog.NewJSONHandler(new(bytes.Buffer), &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			switch a.Key {
			case slog.MessageKey:
				got = append(got, a.Value.String())
			case "cut":
				got[len(got)-1] += "+"
			}
			return a
		}}))}
		for _, w := range c.writes {
			if n, err := l.Write([]byte(w)); n != len(w) || err != nil {
				t.Errorf("%s: %d, %v", c.name, n, err)
			}
			if len(l.part) > maxLine {
				t.Errorf("%s: %d bytes are held", c.name, len(l.part))
			}
		}
		l.close()
		if strings.Join(got, "\n") != strings.Join(c.want, "\n") || len(got) != len(c.want) {
			t.Errorf("%s: %.100q, want %.100q", c.name, got, c.want)
		}
	}
}

func TestTailIsBounded(t *testing.T) {
	l := &lines{log: slog.New(slog.DiscardHandler)}
	for range 1000 {
		l.Write([]byte(strings.Repeat("é", 1000) + "\n"))
	}
	if text := l.text(); len(text) > tailLines*(tailLine+1) || strings.Count(text, "\n") != tailLines-1 {
		t.Errorf("%d bytes in %d lines", len(text), strings.Count(text, "\n")+1)
	}
}
