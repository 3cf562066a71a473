// This file is the application's web side: one page, one form.

package notes

import (
	"database/sql"
	_ "embed" // of page.html
	"errors"
	"fmt"
	"html/template"
	"log"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxNote is the longest note, in bytes.
const MaxNote = 2000

//go:embed page.html
var pageSource string

// view is what the page shows.
type view struct {
	Title   string
	Problem string // why the last note was refused
	Draft   string // that note
	MaxNote int
	Notes   []note
}

// handler serves the page at /, takes its form there, and answers /health.
func handler(s *store) http.Handler {
	page := template.Must(template.New("page").Parse(pageSource))
	show := func(w http.ResponseWriter, r *http.Request, status int, v view) {
		var err error
		if v.Notes, err = s.list(r.Context()); err != nil {
			fail(w, err)
			return
		}
		v.Title, v.MaxNote = title(r.Host), MaxNote
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		if err := page.Execute(w, v); err != nil {
			log.Printf("notes: writing the page: %v", err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { show(w, r, http.StatusOK, view{}) })
	mux.HandleFunc("POST /{$}", func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 8*MaxNote) // room for escapes
		if err := r.ParseForm(); err != nil {
			show(w, r, http.StatusUnprocessableEntity, view{Problem: "This note is far too long, or no form at all."})
			return
		}
		text := strings.TrimSpace(r.PostForm.Get("text"))
		if problem := refuse(text); problem != "" {
			show(w, r, http.StatusUnprocessableEntity, view{Problem: problem, Draft: text})
			return
		}
		if err := s.add(r.Context(), note{text, time.Now()}); err != nil {
			fail(w, err)
			return
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		if err := s.healthy(r.Context()); err != nil && !errors.Is(err, sql.ErrNoRows) {
			fail(w, err)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// refuse says why text cannot be a note; empty if it can.
func refuse(text string) string {
	switch {
	case text == "":
		return "There is nothing in this note."
	case len(text) > MaxNote:
		return fmt.Sprintf("This note is too long: %d bytes of at most %d.", len(text), MaxNote)
	case !utf8.ValidString(text):
		return "This note is not text."
	}
	return ""
}

func fail(w http.ResponseWriter, err error) {
	log.Printf("notes: %v", err)
	http.Error(w, "The notes cannot be reached right now.", http.StatusInternalServerError)
}

// title is the first label of the host, so that acme.localhost reads "acme".
func title(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if net.ParseIP(strings.Trim(host, "[]")) != nil {
		return "notes"
	}
	label, _, _ := strings.Cut(host, ".")
	if label == "" {
		return "notes"
	}
	return label
}
