/*
** sqlload drives SQLite the way applications do, from processes of their own,
** so that tests and benchmarks measure the C library and the kernel's locks.
**
**   sqlload hammer  DB SECONDS WRITERS JOURNAL SYNC   several writing, checking processes
**   sqlload writer  DB JOURNAL SYNC                   commits rows until killed, a line on stdout for each
**   sqlload commits DB COUNT JOURNAL SYNC             one-row commits; prints commits/s
**   sqlload reads   DB COUNT FIRST                    point reads by key; prints reads/s. FIRST=1 commits a row
**                                                     before, as in a database that is in use: with an empty
**                                                     log SQLite asks for the file's size at every read
**   sqlload fill    DB ROWS JOURNAL                   table kv(k integer primary key, v blob) of random 100-byte values
*/
#include <sqlite3.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(sqlite3 *db, const char *what) {
  fprintf(stderr, "sqlload[%d]: %s: %s (%d)\n", getpid(), what, db ? sqlite3_errmsg(db) : "?",
          db ? sqlite3_extended_errcode(db) : 0);
  exit(1);
}

static int try_exec(sqlite3 *db, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  char *sql = sqlite3_vmprintf(format, ap);
  va_end(ap);
  int rc = sqlite3_exec(db, sql, 0, 0, 0);
  sqlite3_free(sql);
  return rc;
}

#define MUST(db, ...)                                 \
  do {                                                \
    if (try_exec(db, __VA_ARGS__)) fail(db, #__VA_ARGS__); \
  } while (0)

static sqlite3 *open_db(const char *path, const char *journal, const char *sync) {
  sqlite3 *db;
  if (sqlite3_open(path, &db)) fail(db, "open");
  sqlite3_busy_timeout(db, 60000);
  if (journal) MUST(db, "pragma journal_mode=%s", journal);
  if (sync) MUST(db, "pragma synchronous=%s", sync);
  return db;
}

static void check(sqlite3 *db) {
  sqlite3_stmt *s;
  if (sqlite3_prepare_v2(db, "pragma integrity_check", -1, &s, 0)) fail(db, "integrity_check");
  int rc = sqlite3_step(s);
  if (rc == SQLITE_BUSY) {
    sqlite3_finalize(s);
    return;
  }
  if (rc != SQLITE_ROW) fail(db, "integrity_check");
  const char *answer = (const char *)sqlite3_column_text(s, 0);
  if (strcmp(answer, "ok")) {
    fprintf(stderr, "sqlload[%d]: integrity_check: %s\n", getpid(), answer);
    exit(2);
  }
  sqlite3_finalize(s);
}

static int writer(const char *path, double until, unsigned seed, const char *sync) {
  sqlite3 *db = open_db(path, 0, sync);
  int commits = 0;
  srandom(seed);
  try_exec(db, "pragma wal_autocheckpoint=%d", seed % 2 ? 50 : 1000);
  while (now() < until) {
    int dice = random() % 100, key = random() % 2000;
    int rc = try_exec(db, "begin immediate");
    if (rc == SQLITE_BUSY) continue;
    if (rc) fail(db, "begin");
    MUST(db, "insert or replace into h(k,v) values(%d, randomblob(%d))", key, (int)(random() % 3000));
    if (dice < 40) MUST(db, "update h set v=randomblob(length(v)+1), n=n+1 where k between %d and %d", key, key + 5);
    if (dice >= 40 && dice < 60) MUST(db, "delete from h where k between %d and %d", key, key + 20);
    if (dice >= 60 && dice < 70) {
      MUST(db, "insert or replace into h(k,v) with recursive r(i) as (select %d union all select i+1 from r where i<%d) "
               "select i, randomblob(500) from r", key, key + 200);
    }
    if (dice % 10 == 9) {
      MUST(db, "rollback");
    } else {
      rc = try_exec(db, "commit");
      if (rc == SQLITE_BUSY) { MUST(db, "rollback"); continue; }
      if (rc) fail(db, "commit");
      commits++;
    }
    if (dice == 0) try_exec(db, "pragma wal_checkpoint(restart)");
    if (dice == 1) try_exec(db, "pragma wal_checkpoint(truncate)");
    if (dice == 2) try_exec(db, "pragma wal_checkpoint(passive)");
    if (dice == 3 && commits % 7 == 0) try_exec(db, "vacuum");
    if (dice % 25 == 4) check(db);
    if (dice % 10 == 5) { /* a fresh connection, as a web request would have */
      sqlite3_close(db);
      db = open_db(path, 0, sync);
    }
  }
  check(db);
  sqlite3_close(db);
  return commits;
}

static int hammer(char **a) {
  const char *path = a[0];
  double until = now() + atof(a[1]);
  int writers = atoi(a[2]), failed = 0, total = 0, pipes[2];
  sqlite3 *db = open_db(path, a[3], a[4]);
  MUST(db, "create table if not exists h(k integer primary key, n integer default 0, v blob)");
  MUST(db, "create index if not exists hn on h(n, k)");
  sqlite3_close(db);
  if (pipe(pipes)) fail(0, "pipe");
  for (int i = 0; i < writers; i++) {
    if (fork() == 0) {
      int n = writer(path, until, getpid() * 31 + i, a[4]);
      if (write(pipes[1], &n, sizeof n) != sizeof n) exit(1);
      exit(0);
    }
  }
  for (int i = 0; i < writers; i++) {
    int status, n;
    wait(&status);
    if (status) failed++;
    else if (read(pipes[0], &n, sizeof n) == sizeof n) total += n;
  }
  printf("%d commits\n", total);
  return failed;
}

/* Rows are numbered; one is printed only after its COMMIT returned. */
static void write_rows(char **a) {
  sqlite3 *db = open_db(a[0], a[1], a[2]);
  MUST(db, "create table if not exists w(n integer primary key, v blob)");
  setvbuf(stdout, 0, _IOLBF, 0);
  for (;;) {
    MUST(db, "begin immediate");
    MUST(db, "insert into w(v) values(randomblob(900))");
    long long n = sqlite3_last_insert_rowid(db);
    MUST(db, "update w set v=randomblob(1000) where n=%lld", n);
    MUST(db, "commit");
    printf("%lld\n", n);
  }
}

static int commits(char **a) {
  int count = atoi(a[1]);
  sqlite3 *db = open_db(a[0], a[2], a[3]);
  MUST(db, "create table if not exists c(n integer primary key, v text)");
  sqlite3_stmt *s;
  if (sqlite3_prepare_v2(db, "insert into c(v) values('a row of ordinary length, as applications have')", -1, &s, 0)) fail(db, "prepare");
  double began = now();
  for (int i = 0; i < count; i++) {
    if (sqlite3_step(s) != SQLITE_DONE) fail(db, "insert");
    sqlite3_reset(s);
  }
  printf("%.0f\n", count / (now() - began));
  sqlite3_finalize(s);
  sqlite3_close(db);
  return 0;
}

static int reads(char **a) {
  int count = atoi(a[1]);
  sqlite3 *db = open_db(a[0], 0, 0);
  if (atoi(a[2])) MUST(db, "create table if not exists first(n); insert into first values(1)");
  sqlite3_stmt *s;
  if (sqlite3_prepare_v2(db, "select max(k) from kv", -1, &s, 0) || sqlite3_step(s) != SQLITE_ROW) fail(db, "select");
  int rows = sqlite3_column_int(s, 0);
  sqlite3_finalize(s);
  if (sqlite3_prepare_v2(db, "select v from kv where k=?", -1, &s, 0)) fail(db, "prepare");
  srandom(1);
  double began = now();
  for (int i = 0; i < count; i++) {
    sqlite3_bind_int(s, 1, 1 + random() % rows);
    if (sqlite3_step(s) != SQLITE_ROW) fail(db, "read");
    sqlite3_reset(s);
  }
  printf("%.0f\n", count / (now() - began));
  sqlite3_finalize(s);
  sqlite3_close(db);
  return 0;
}

static int fill(char **a) {
  sqlite3 *db = open_db(a[0], a[2], "off");
  MUST(db, "create table if not exists kv(k integer primary key, v blob)");
  MUST(db, "with recursive r(i) as (select 1 union all select i+1 from r where i<%d) insert into kv select i, randomblob(100) from r", atoi(a[1]));
  sqlite3_close(db);
  return 0;
}

int main(int argc, char **argv) {
  if (argc == 7 && !strcmp(argv[1], "hammer")) return hammer(argv + 2);
  if (argc == 5 && !strcmp(argv[1], "writer")) write_rows(argv + 2);
  if (argc == 6 && !strcmp(argv[1], "commits")) return commits(argv + 2);
  if (argc == 5 && !strcmp(argv[1], "reads")) return reads(argv + 2);
  if (argc == 5 && !strcmp(argv[1], "fill")) return fill(argv + 2);
  fprintf(stderr, "usage: see the head of sqlload.c\n");
  return 64;
}
