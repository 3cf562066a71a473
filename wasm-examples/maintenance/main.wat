;; maintenance is a resolver: acme.example.com is the tenant acme, and between two
;; times every request is answered 503.
;;
;; Its configuration is from and until, in UTC and in full:
;;
;;   [policy.config]
;;   from = "2026-11-28T22:00:00Z"
;;   until = "2026-11-28T23:30:00Z"
;;
;; Times of this form sort as texts do. Memory: words below 1024, the decision
;; from 1024 on, the request at 0x10000, the configuration at 0x20000, the
;; attributes of the tenant, which nobody reads, at 0x30000. An instance serves one
;; request.
(module
  (import "atc_v1" "request" (func $request (param i32 i32) (result i32)))
  (import "atc_v1" "config" (func $config (param i32 i32) (result i32)))
  (import "atc_v1" "tenant" (func $tenant (param i32 i32 i32 i32) (result i32)))
  (import "atc_v1" "decide" (func $decide (param i32 i32)))
  (memory (export "memory") 4)

  (data (i32.const 0) "host: ")
  (data (i32.const 16) "time: ")
  (data (i32.const 32) "from: ")
  (data (i32.const 48) "until: ")
  (data (i32.const 64) "status: 503\nset-header.retry-after: 60\nbody: We are back soon.\n") ;; 63 bytes
  (data (i32.const 160) "status: 503\nset-header.retry-after: 1\nbody: The list of tenants cannot be read at the moment.\n") ;; 94
  (data (i32.const 288) "status: 404\nbody: There is no such tenant.\n") ;; 43
  (data (i32.const 1024) "tenant: ") ;; the ID follows

  ;; same reports whether n bytes at a and b are the same.
  (func $same (param $a i32) (param $b i32) (param $n i32) (result i32)
    (loop $next
      (if (i32.eqz (local.get $n)) (then (return (i32.const 1))))
      (if (i32.ne (i32.load8_u (local.get $a)) (i32.load8_u (local.get $b))) (then (return (i32.const 0))))
      (local.set $a (i32.add (local.get $a) (i32.const 1)))
      (local.set $b (i32.add (local.get $b) (i32.const 1)))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br $next))
    (unreachable))

  ;; value finds the line that begins with a key of n bytes in the text from at to
  ;; end, and returns where its value begins; 0 where there is none.
  (func $value (param $at i32) (param $end i32) (param $key i32) (param $n i32) (result i32)
    (loop $line
      (if (i32.gt_u (i32.add (local.get $at) (local.get $n)) (local.get $end)) (then (return (i32.const 0))))
      (if (call $same (local.get $at) (local.get $key) (local.get $n))
        (then (return (i32.add (local.get $at) (local.get $n)))))
      (loop $byte
        (if (i32.ge_u (local.get $at) (local.get $end)) (then (return (i32.const 0))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br_if $byte (i32.ne (i32.load8_u (i32.sub (local.get $at) (i32.const 1))) (i32.const 10))))
      (br $line))
    (unreachable))

  ;; before reports whether the time at a is before that at b: 20 bytes each.
  (func $before (param $a i32) (param $b i32) (result i32)
    (local $i i32)
    (loop $next
      (if (i32.ne (i32.load8_u (local.get $a)) (i32.load8_u (local.get $b)))
        (then (return (i32.lt_u (i32.load8_u (local.get $a)) (i32.load8_u (local.get $b))))))
      (local.set $a (i32.add (local.get $a) (i32.const 1)))
      (local.set $b (i32.add (local.get $b) (i32.const 1)))
      (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 20))))
    (i32.const 0))

  ;; ends reports whether a tenant's name ends before this byte of a host.
  (func $ends (param $c i32) (result i32)
    (i32.or (i32.eq (local.get $c) (i32.const 46)) ;; .
      (i32.or (i32.eq (local.get $c) (i32.const 58)) ;; :
        (i32.eq (local.get $c) (i32.const 10)))))

  (func (export "resolve") (result i32)
    (local $request i32) (local $config i32) (local $now i32) (local $from i32) (local $until i32)
    (local $host i32) (local $n i32)
    (local.set $request (i32.add (i32.const 0x10000) (call $request (i32.const 0x10000) (i32.const 0x10000))))
    (local.set $config (i32.add (i32.const 0x20000) (call $config (i32.const 0x20000) (i32.const 0x10000))))
    (local.set $now (call $value (i32.const 0x10000) (local.get $request) (i32.const 16) (i32.const 6)))
    (local.set $from (call $value (i32.const 0x20000) (local.get $config) (i32.const 32) (i32.const 6)))
    (local.set $until (call $value (i32.const 0x20000) (local.get $config) (i32.const 48) (i32.const 7)))
    (if (i32.and (i32.ne (local.get $from) (i32.const 0)) (i32.ne (local.get $until) (i32.const 0)))
      (then (if (i32.and
          (i32.eqz (call $before (local.get $now) (local.get $from)))
          (call $before (local.get $now) (local.get $until)))
        (then
          (call $decide (i32.const 64) (i32.const 63))
          (return (i32.const 0))))))

    (local.set $host (call $value (i32.const 0x10000) (local.get $request) (i32.const 0) (i32.const 6)))
    (block $done
      (loop $byte
        (br_if $done (call $ends (i32.load8_u (i32.add (local.get $host) (local.get $n)))))
        (br_if $done (i32.gt_u (local.get $n) (i32.const 63)))
        (i32.store8 (i32.add (i32.const 1032) (local.get $n)) (i32.load8_u (i32.add (local.get $host) (local.get $n))))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br $byte)))
    (local.set $from (call $tenant (i32.const 1032) (local.get $n) (i32.const 0x30000) (i32.const 0x10000)))
    (if (i32.eq (local.get $from) (i32.const -1)) (then
      (call $decide (i32.const 288) (i32.const 43))
      (return (i32.const 0))))
    (if (i32.lt_s (local.get $from) (i32.const 0)) (then
      (call $decide (i32.const 160) (i32.const 94))
      (return (i32.const 0))))
    (call $decide (i32.const 1024) (i32.add (local.get $n) (i32.const 8)))
    (i32.const 0)))
