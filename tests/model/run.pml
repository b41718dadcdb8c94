/* The order of a run's durable steps, from the intention to run to the word that its end is
 * on disk: one action, its supervisor, which may die and start again, and a worker for each
 * attempt, which may die too.
 *
 * Every step of ipc/failpoints.py is one STEP here, by its name. A process can be killed
 * between any two statements, so before and after each step.
 *
 * Modelled: what outlives a process (the record, run locks while their holder lives, kept
 * results, living process trees), messages (lost with whoever was to hear them), the
 * lifeline. Abstracted: time; why a run is stopped; which terminal status it comes to.
 * Assumed: a commit is atomic and durable; the kernel lets go of a lock when its holder
 * dies; SIGKILL ends a tree, if it is looked for.
 *
 * Wrong orders are chosen by -DWRONG_...; test_model.py shows that each is found.
 * -DSWEEP_BY_LOCKS is no wrong order: it is what is left where no worker can declare itself.
 */

#ifndef DEATHS
#define DEATHS 2   /* of the supervisor */
#endif
#define RUNS 4     /* a run for each death, of either, and one more */
#define STEP(name, effect) atomic { effect }

mtype = { none, null, started, over, of_itself, stopped };

/* --- what outlives every process --- */
mtype status = null;
byte open_run = 0;
bool stop_decided = false;
byte reports = 0;
mtype kept[RUNS] = none;
bool alive[RUNS];              /* something of the run's process tree lives */
bool lock[RUNS];

/* --- messages, and who is there to hear them --- */
bool ready[RUNS], run_sent[RUNS], stop_sent[RUNS], ended_sent[RUNS], ack_sent[RUNS];
byte era = 0;                  /* a number for each life of the supervisor */
bool up = false;
bool kill_supervisor = false;

/* --- workers --- */
bool forked[RUNS], gone[RUNS], kill_worker[RUNS];
bool declared[RUNS];           /* its identity is on disk: a sweep can see it */
byte attempts = 0;

/* --- what only the properties know --- */
bool ended_and_kept[RUNS];     /* it ended of itself, and that was on disk, or told */

#define nothing_alive (!alive[0] && !alive[1] && !alive[2] && !alive[3])
#define abandoned (!up || era != mine)

#define settle(how) \
	assert(!alive[open_run]);       /* no status is settled over a living run */ \
	assert(status != over);         /* a terminal status is never left */ \
	status = how

inline settle_for_ever() {
	settle(over);
#ifndef WRONG_REPORT_APART
	reports++
#endif
}

inline intend_run() {
	assert(status != over);         /* a terminal status is never left */
	assert(ready[number]);          /* no attempt without a worker that can begin it (S9) */
	status = started;
	open_run = number;
	heard = false
}

inline start_script() {
	assert(nothing_alive);          /* never two runs at once */
#ifndef RESULTS_MAY_BE_LOST
	for (earlier : 0 .. RUNS - 1) {
		assert(!ended_and_kept[earlier])  /* a result that was kept is never lost */
	}
#endif
	alive[me] = true
}

proctype Worker(byte me; byte mine) {
	mtype end = none;
	byte earlier;
	{
#ifdef WRONG_SEEN_ONCE_STARTED
		STEP(send_ready, ready[me] = true);
#else
		STEP(send_ready, declared[me] = true; ready[me] = true);
#endif
		(run_sent[me] || abandoned);
		if
		:: !run_sent[me] -> goto leave
		:: else
		fi;
#ifdef WRONG_LOCK_AFTER_START
		start_script();
		STEP(lock_run, lock[me] = true);
#else
		STEP(lock_run, lock[me] = true);
#ifndef WRONG_NO_LIFELINE
		if
		:: abandoned -> goto leave
		:: else
		fi;
#endif
		STEP(start_script, start_script());
#endif
#ifdef WRONG_SEEN_ONCE_STARTED
		declared[me] = true;
#endif
		if
		:: end = of_itself
		:: (stop_sent[me] || abandoned) -> end = stopped
		fi;
		STEP(signal_tree, skip);
		STEP(kill_tree, alive[me] = false);
#ifdef WRONG_TOLD_BEFORE_KEPT
		if
		:: abandoned
		:: else ->
			STEP(send_ended, ended_sent[me] = true; ended_and_kept[me] = (end == of_itself))
		fi;
		STEP(keep_result, kept[me] = end; ended_and_kept[me] = (end == of_itself));
#else
		STEP(keep_result, kept[me] = end; ended_and_kept[me] = (end == of_itself));
		if
		:: abandoned -> goto leave
		:: else
		fi;
		STEP(send_ended, ended_sent[me] = true);
#endif
		(ack_sent[me] || abandoned);
		if
		:: ack_sent[me] ->
			STEP(forget_result, kept[me] = none)
		:: else
		fi;
leave:
		STEP(unlock_run, lock[me] = false)
	} unless { kill_worker[me] };
	atomic { lock[me] = false; gone[me] = true }
}

/* S1: end what an earlier daemon left, before anything is decided. A worker that was forked
 * and has not said who it is cannot be seen; it outlives this. The others get a moment to
 * keep their results, or are killed, which are both ways for them to be gone. */
inline sweep() {
#ifdef WRONG_NO_SWEEP
	skip
#else
	for (n : 0 .. RUNS - 1) {
		if
#ifdef SWEEP_BY_LOCKS
		:: forked[n] && lock[n] ->
#else
#ifdef WRONG_SWEEP_DOES_NOT_WAIT
		:: false ->
#else
		:: declared[n] && !gone[n] ->
#endif
#endif
			if
			:: gone[n]
			:: kill_worker[n] = true; gone[n]
			fi
		:: else
		fi;
		alive[n] = false
	}
#endif
}

/* S2 */
inline recover() {
	if
	:: status == started && kept[open_run] == of_itself -> settle_for_ever()
	:: status == started && kept[open_run] != of_itself && stop_decided -> settle_for_ever()
	:: status == started && kept[open_run] != of_itself && !stop_decided -> settle(null)
	:: else
	fi;
	for (n : 0 .. RUNS - 1) {
		ended_and_kept[n] = ended_and_kept[n] && status != over
	}
}

inline fork_worker() {
	atomic {
		number = attempts;
		attempts++;
		forked[number] = true;
		run Worker(number, era)
	}
#ifndef WRONG_COMMIT_BEFORE_READY
	(ready[number] || gone[number]);
#endif
}

proctype Supervisor() {
	byte number, n;
	bool redo = false;
	bool heard = false;    /* the end of the open run, which waits for its commit */
	{
		sweep();
#ifdef WRONG_RERUN_UNFINISHED
		if
		:: status == started -> redo = true
		:: else
		fi;
#else
		STEP(commit_recovered, recover());
#endif
		do
		:: status == null || (redo && status == started) ->
			redo = false;
			fork_worker();
			if
			:: gone[number]
			:: else ->
#ifdef WRONG_SPAWN_THEN_COMMIT
				STEP(send_run, run_sent[number] = true);
				STEP(commit_started, intend_run())
#else
				STEP(commit_started, intend_run());
				STEP(send_run, run_sent[number] = true)
#endif
			fi
		:: status == started && ended_sent[open_run] && !heard ->
			STEP(hear_ended, heard = true);
#ifdef WRONG_ACK_WHEN_HEARD
			STEP(send_ack, ack_sent[open_run] = true)
#endif
		:: status == started && heard ->
			/* it may have waited: others share its commit */
#ifdef WRONG_ACK_BEFORE_COMMIT
			STEP(send_ack, ack_sent[open_run] = true);
			gone[open_run];
#endif
			STEP(commit_ended, settle_for_ever(); ended_and_kept[open_run] = false; heard = false);
#ifdef WRONG_REPORT_APART
			atomic { reports++ };
#endif
#ifndef WRONG_ACK_BEFORE_COMMIT
			STEP(send_ack, ack_sent[open_run] = true)
#endif
		:: status == started && gone[open_run] && !ended_sent[open_run] ->
			/* its worker was killed: its tree is ended here, then the kept result counts */
#ifdef WRONG_SETTLED_BEFORE_GONE
			atomic { settle_for_ever(); ended_and_kept[open_run] = false }
#else
			alive[open_run] = false;
			atomic { settle_for_ever(); ended_and_kept[open_run] = false }
#endif
		:: status == started && !stop_decided && !ended_sent[open_run] && !gone[open_run] ->
			STEP(commit_stop, stop_decided = true);
			STEP(send_stop, stop_sent[open_run] = true)
		:: status == started && stop_decided && !stop_sent[open_run] ->
			STEP(send_stop, stop_sent[open_run] = true)
		od
	} unless { kill_supervisor };
	/* Whatever was on its way to it is lost; it is started again. */
	atomic {
		up = false;
		kill_supervisor = false;
		for (number : 0 .. RUNS - 1) {
			ended_sent[number] = false
		}
		era++;
		up = true;
		run Supervisor()
	}
}

/* Kills at any instant, so often and no more. */
active proctype Fate() {
	byte deaths = 0;
	bool worker_died = false;
	byte n;
	do
	:: deaths < DEATHS -> deaths++; kill_supervisor = true; !kill_supervisor
	:: !worker_died ->
		worker_died = true;
		if
		:: n = 0
		:: n = 1
		:: n = 2
		fi;
		if
		:: forked[n] && !gone[n] -> kill_worker[n] = true
		:: else
		fi
	:: break
	od
}

/* When nothing can happen any more, everything has come to its end. */
active proctype Judge() {
	timeout;
	assert(status == over);         /* every run ends settled */
	assert(reports >= 1)            /* and that was put down to be reported */
}

init {
	atomic { up = true; run Supervisor() }
}
