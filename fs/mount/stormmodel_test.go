package mount_test

import (
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
)

// This file defines what the storm knows of a database: every transaction that
// was ever tried has a token and follows another one. A state existed if it is
// the sequence of transactions up to one of them, and nothing else.

// transaction is one that was tried, whatever became of it.
type transaction struct {
	token, parent int // parent 0: the database without rows
	n             int // its row: the length of the sequence up to it
}

// model is all transactions of a story.
type model struct {
	mu           sync.Mutex // protects transactions
	transactions map[int]transaction
}

func newStormModel() *model { return &model{transactions: make(map[int]transaction)} }

// schema makes the tables, if they are not there.
const schema = `begin immediate; create table if not exists t(n integer primary key, token, v);
	create table if not exists slot(i integer primary key, token, v);
	create table if not exists pad(v); commit;`

const slots = 24

// try makes the next transaction behind parent, and its statements.
func (m *model) try(parent int) (transaction, string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x := transaction{token: len(m.transactions) + 1, parent: parent, n: m.transactions[parent].n + 1}
	m.transactions[x.token] = x
	var b strings.Builder
	fmt.Fprintf(&b, "insert into t values(%d,%d,x'%s');", x.n, x.token, content(x.token))
	for _, i := range touched(x.token) {
		fmt.Fprintf(&b, "replace into slot values(%d,%d,x'%s');", i, x.token, content(x.token+1000*i))
	}
	switch r := source(x.token, 3); r.IntN(6) {
	case 0:
		b.WriteString("insert into pad select v from t limit 20;")
	case 1:
		b.WriteString("delete from pad;")
	}
	return x, b.String()
}

// source are random numbers that belong to a transaction.
func source(token int, what uint64) *rand.Rand {
	return rand.New(rand.NewPCG(uint64(token), what))
}

// content is a value in hex. It begins with bytes that no other one has.
func content(token int) string {
	r := source(token, 1)
	b := make([]byte, 16+r.IntN(900))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return strings.ToUpper(hex.EncodeToString(b))
}

// touched are the slots that a transaction writes.
func touched(token int) []int {
	r := source(token, 2)
	written := make([]int, 1+r.IntN(4))
	for i := range written {
		written[i] = r.IntN(slots)
	}
	return written
}

// sequence reads which transactions a database holds, and fails if it is not a
// sequence of them.
func (m *model) sequence(a application) ([]int, error) {
	rows, err := a.exec("select n, token from t order by n;")
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var tokens []int
	last := 0
	for i, row := range rows {
		var n, token int
		if _, err := fmt.Sscanf(row, "%d|%d", &n, &token); err != nil {
			return nil, impossible("row %q: %v", row, err)
		}
		if x, ok := m.transactions[token]; !ok || n != i+1 || x.n != n || x.parent != last {
			return nil, impossible("row %d is of transaction %d (%+v), which does not follow %d; it has %v", n, token, x, last, rows)
		}
		tokens, last = append(tokens, token), token
	}
	return tokens, nil
}

// impossible is a state that cannot have existed.
func impossible(format string, args ...any) error { return stateError{fmt.Errorf(format, args...)} }

type stateError struct{ error }

// sound reads the whole database, and fails unless it is what the sequence of
// transactions makes.
func (m *model) sound(a application, tokens []int) error {
	if rows, err := a.exec("pragma integrity_check;"); err != nil || len(rows) != 1 || rows[0] != "ok" {
		return impossible("integrity check: %v %v", rows, err)
	}
	want := make(map[int]int)
	for _, token := range tokens {
		for _, i := range touched(token) {
			want[i] = token
		}
	}
	got := make(map[int]int)
	rows, err := a.exec("select i, token, hex(v) from slot;")
	if err != nil {
		return err
	}
	for _, row := range rows {
		c := strings.Split(row, "|")
		var i, token int
		if _, err := fmt.Sscan(c[0], &i); err != nil {
			return impossible("slot %q", row)
		}
		if _, err := fmt.Sscan(c[1], &token); err != nil || c[2] != content(token+1000*i) {
			return impossible("slot %d of transaction %d has other content", i, token)
		}
		got[i] = token
	}
	if !maps.Equal(got, want) {
		return impossible("the slots are of transactions %v, want %v", got, want)
	}
	rows, err = a.exec("select token, hex(v) from t order by n;")
	if err != nil {
		return err
	}
	for i, row := range rows {
		if row != fmt.Sprintf("%d|%s", tokens[i], content(tokens[i])) {
			return impossible("row %d has other content", i+1)
		}
	}
	return nil
}
