package tenant_test

// This file is the steps of the model, each named after the function of the code
// that it stands for, and the places where a world may have one of them broken.

// owning are the steps by which a machine takes, serves and releases a tenant.
func (w *world) owning(s modelState, i int, take func(string, modelState)) {
	me := &s.m[i]
	free := me.answer == none // it does one thing at a time
	may := w.valid(me)
	switch t := s; {
	case me.phase == idle && may && s.record.epoch < w.epochs:
		t.m[i].phase, t.m[i].read, t.m[i].lapsed = loaded, s.record, false
		take("Registry.Load", t)

	case me.phase == loaded:
		other := me.read.owner != 0 && me.read.owner != uint8(i)+1
		if may && (!other || !w.timed || me.dead) {
			t.m[i].phase, t.m[i].answer = acquiring, sent
			t.m[i].out = request{kind: putAcquire, at: me.read.version, put: entry{epoch: me.read.epoch + 1, what: me.session}}
			take("Registry.Acquire: put", t)
		}
		t = s
		t.m[i].phase = idle
		take("Registry.Acquire: Busy", t)

	case me.phase == surveying:
		t.m[i].at = s.end()
		t.m[i].base = mask(t.m[i].at)
		t.m[i].phase = barring
		if at := t.m[i].at; at > 0 && s.log[at-1].epoch > me.epoch && !w.barrierBehindLater {
			t.m[i].phase = fenced
		}
		if w.noBarrier || w.barrierNotFirst && t.m[i].at == 0 {
			t.m[i].phase = serving
		}
		take("history.Log.Load, CatchUp", t)

	case me.phase == barring && free && may && me.at < modelSlots:
		t.m[i].answer = sent
		t.m[i].out = request{kind: putLog, at: me.at, put: entry{barrier, me.epoch, uint8(i), me.base}}
		take("database.PutBarrier: Append", t)

	case me.phase == serving && free:
		if me.pending == 0 && s.begun < w.transactions && w.serves(me) {
			t.begun++
			t.m[i].pending = t.begun
			take("database.DB.capture", t)
		}
		t = s
		if me.pending != 0 && may && me.at < modelSlots {
			t.m[i].answer = sent
			t.m[i].out = request{kind: putLog, at: me.at, put: entry{me.pending, me.epoch, uint8(i), me.base}}
			take("database.DB.ship: Append", t)
		}
		t = s
		if me.pending == 0 && may && me.read.version < w.versions {
			t.m[i].phase, t.m[i].answer = releasing, sent
			t.m[i].out = request{kind: putRelease, at: me.read.version, put: entry{epoch: me.epoch, what: me.at}}
			take("volume.Tenant.release: Registry.Update", t)
		}

	case me.phase == releasing && free: // Update, again with the version that was found
		if may && me.read.version < w.versions {
			t.m[i].answer = sent
			t.m[i].out.at = me.read.version
			take("Registry.Update: again", t)
		}

	case me.phase == fenced:
		t.m[i].phase = idle
		take("volume: keep aside, close", t)
	}
	if me.answer == unknown && may {
		t := s
		switch me.out.kind {
		case putAcquire:
			t.m[i].phase, t.m[i].answer = idle, none // it reads the record again
			take("Registry.Acquire: Unavailable", t)
		case putTouch:
			t.m[i].answer = none // asks again
			take("Registry.Mine: Unavailable", t)
		default:
			t.m[i].answer = sent
			take("Append or Update: the same again", t)
			if w.servesOn && me.out.kind == putRelease {
				t.m[i].phase, t.m[i].answer = serving, none
				take("(mutation) serve on", t)
			}
		}
	}
	if s.crash < w.crashes && me.phase != idle {
		t := s
		t.crash++
		gone := modelMachine{session: me.session + 1, late: me.late, since: w.lease}
		if me.answer == sent && gone.late.kind == nothing {
			gone.late = me.out
		}
		t.m[i] = gone
		take("kill -9", t)
	}
}

// network are the steps of requests and answers.
func (w *world) network(s modelState, i int, take func(string, modelState)) {
	me := &s.m[i]
	if me.late.kind != nothing {
		t := s
		w.arrive(&t, i, me.late)
		t.m[i].late = request{}
		take("bucket: a request that was given up arrives", t)
	}
	switch me.answer {
	case sent:
		t := s
		t.m[i].answer = refused
		if w.arrive(&t, i, me.out) {
			t.m[i].answer = done
		}
		take("bucket: arrives", t)
		if me.late.kind == nothing {
			t = s
			t.m[i].late, t.m[i].answer = me.out, unknown
			take("bucket: no answer, still on its way", t)
		}
	case done, refused:
		t := s
		t.m[i].answer = unknown
		take("bucket: the answer is lost", t)
		t = s
		if t.m[i].answer = none; me.answer == done {
			w.succeeded(&t, i)
		} else {
			w.conflicted(&t, i)
		}
		take("bucket: "+[]string{done: "answers", refused: "answers 412"}[me.answer], t)
	}
}

// arrive is bucket.Put with IfMatch or IfNoneMatch.
func (w *world) arrive(s *modelState, i int, r request) bool {
	if r.kind == putLog {
		if s.log[r.at].what != 0 {
			return false
		}
		s.log[r.at] = r.put
		return true
	}
	if s.record.version != r.at && !w.recordOverwrites {
		return false
	}
	s.record.version++
	switch r.kind {
	case putAcquire:
		s.record.epoch, s.record.owner, s.record.session = r.put.epoch, uint8(i)+1, r.put.what
	case putRelease:
		s.record.epoch, s.record.owner, s.record.session, s.record.at = r.put.epoch, 0, 0, r.put.what
	}
	return true
}

// succeeded is what a machine does when its PUT is confirmed.
func (w *world) succeeded(s *modelState, i int) {
	me := &s.m[i]
	switch me.out.kind {
	case putAcquire: // volume.Tenant.acquire
		unclean := me.read.owner != 0
		me.epoch, me.at = me.out.put.epoch, me.read.at
		me.read.version++
		me.phase, me.base = serving, mask(me.at)
		if unclean {
			me.phase = surveying
		}
	case putRelease:
		me.phase = idle
	case putTouch: // Registry.Mine
		me.read.version++
		me.lapsed = me.out.put.what != 0 && !w.resumesLate
	case putLog:
		if me.out.put.what == barrier {
			me.phase = serving
		} else {
			s.acked |= 1 << me.out.put.what
			me.pending = 0
		}
		me.base |= 1 << me.out.at
		me.at = me.out.at + 1
	}
}

// conflicted is what a machine does when its PUT is answered with 412.
func (w *world) conflicted(s *modelState, i int) {
	me := &s.m[i]
	if w.conflictSucceeds && me.out.kind == putLog {
		w.succeeded(s, i)
		return
	}
	switch me.out.kind {
	case putAcquire:
		me.phase = idle
	case putRelease, putTouch: // Registry.Update reads it again
		if s.record.epoch != me.epoch {
			me.phase = fenced
		} else {
			me.read = s.record
		}
	case putLog: // history.Log.Append compares
		switch {
		case s.log[me.out.at] == me.out.put && !w.conflictFences:
			w.succeeded(s, i)
		case me.phase != barring:
			me.phase = fenced
		case w.barrierUnread:
			me.at++
		default:
			me.phase = surveying // PutBarrier: CatchUp
		}
	}
}

// leasing are the steps of the lease and of those who watch it.
func (w *world) leasing(s modelState, i int, take func(string, modelState)) {
	me, other := &s.m[i], &s.m[1-i]
	switch t := s; me.renewal {
	case none:
		// Sooner adds nothing, and an idle machine renews nothing (Lease.waitDue).
		if (me.since > 0 || w.leaseFromAnswer) && (me.phase != idle || me.since == w.lease && s.record.epoch < w.epochs) {
			t.m[i].renewal, t.m[i].renewing = sent, 0
			take("Lease.renewOnce: beat.replace", t)
		}
	case sent:
		t.m[i].renewal, t.m[1-i].changed = done, true
		take("bucket: the heartbeat arrives", t)
	case done:
		t.m[i].renewal = none
		take("bucket: the heartbeat's answer is lost", t)
		if t.m[i].since = min(me.since, me.renewing); w.leaseFromAnswer {
			t.m[i].since = 0
		}
		take("Lease.confirm", t)
	}
	if t := s; me.phase == loaded && !me.dead && me.read.owner == uint8(1-i)+1 {
		switch {
		case me.changed || !me.watching:
			t.m[i].watching, t.m[i].changed, t.m[i].watched = true, false, 0
			take("Watcher.Judge: alive", t)
		case me.watched >= w.watch || other.session != me.read.session:
			t.m[i].dead = true
			take("Watcher.Judge: dead", t)
		}
	}
	if me.lapsed && w.valid(me) && (me.phase == serving || me.phase == releasing) && me.answer == none {
		t := s
		switch {
		case w.resumesUnasked:
			t.m[i].lapsed = false
			take("(mutation) resume", t)
		case w.resumesByReading:
			if t.m[i].lapsed = false; s.record.epoch != me.epoch {
				t.m[i].phase = fenced
			}
			take("(mutation) resume after Registry.Load", t)
		case me.phase == serving && me.read.version < w.versions:
			t.m[i].answer = sent
			t.m[i].out = request{kind: putTouch, at: me.read.version, put: entry{epoch: me.epoch}}
			take("Registry.Mine: Update", t)
		}
	}
}

// clocks are the ticks: of both clocks together, and of one while they are not
// further apart than they may be. A machine that is paused has its clock going
// on, since it is CLOCK_BOOTTIME.
func (w *world) clocks(s modelState, step func(string, int, modelState)) {
	tick := func(m *modelMachine) {
		if m.since < w.lease {
			if m.since++; m.since == w.lease { // Lease.look
				m.lapsed = m.phase >= acquiring && m.phase != fenced
				if m.lapsed && m.out.kind == putTouch {
					m.out.put.what = 1 // Lease.Term is another one
				}
			}
		}
		m.renewing = min(m.renewing+1, w.lease)
		m.watched = min(m.watched+1, w.watch)
	}
	for i := range s.m {
		t := s
		if t.skew += int8(1 - 2*i); max(t.skew, -t.skew) <= int8(w.drift) {
			tick(&t.m[i])
			w.settle(&t)
			step("its clock ticks", i, t)
		}
	}
	for i := range s.m {
		tick(&s.m[i])
	}
	w.settle(&s)
	step("both clocks tick", 0, s)
}

// settle forgets what makes no difference any more, so that states which behave
// alike are one.
func (w *world) settle(s *modelState) {
	for i := range s.m {
		m := &s.m[i]
		switch m.late.kind {
		case nothing:
		case putLog:
			if s.log[m.late.at].what != 0 {
				m.late = request{}
			}
		default:
			if s.record.version != m.late.at && !w.recordOverwrites {
				m.late = request{}
			}
		}
		if m.phase == idle || m.phase == loaded {
			m.epoch, m.at, m.base, m.pending, m.lapsed, m.answer = 0, 0, 0, 0, false, none
		}
		if m.phase == idle || m.phase == fenced {
			m.read = modelRecord{}
			m.answer = none
		}
		if m.answer == none && m.phase != releasing {
			m.out = request{}
		}
		if m.phase == idle && s.record.epoch >= w.epochs {
			m.since, m.renewal = w.lease, none // it can take nothing more
		}
		if m.phase != loaded || m.read.owner == 0 || m.read.owner == uint8(i)+1 {
			m.watched, m.watching, m.changed, m.dead = 0, false, false, false
		}
		if m.changed || !m.watching {
			m.watched = 0
		}
		if !m.watching {
			m.changed = false
		}
		if m.renewal == done && m.renewing >= m.since && !w.leaseFromAnswer {
			m.renewal = none // its answer changes nothing
		}
		if m.renewal == none {
			m.renewing = 0
		}
	}
}
