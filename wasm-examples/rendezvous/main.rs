//! rendezvous is a resolver: acme.example.com is the tenant acme, and each tenant
//! has a machine that it prefers, the same whichever machine is asked.
//!
//! Of all machines that take work, the one counts whose name and the tenant's
//! have the highest xxhash64 together. So when a machine goes only its tenants
//! move, to all the others, and when one comes it gets its share from all.
#![no_std]
#![no_main]

#[path = "../rust/guest.rs"]
mod guest;

use guest::{hostname, lines, machines, request, tenant, unknown, value, Decision};

#[no_mangle]
pub extern "C" fn resolve() -> i32 {
    let host = hostname(value(request(), b"host").unwrap_or(b""));
    let id = host.split(|&c| c == b'.').next().unwrap_or(b"");
    if let Err(why) = tenant(id) {
        return unknown(why);
    }
    let mut best: Option<(u64, &[u8])> = None;
    for line in lines(machines()) {
        let mut fields = line.split(|&c| c == b' ');
        let name = fields.next().unwrap_or(b"");
        if fields.nth(2) != Some(b"started") {
            continue;
        }
        let score = xxhash64(name, id);
        if best.map_or(true, |(most, _)| score > most) {
            best = Some((score, name));
        }
    }
    let mut d = Decision::new().line(b"tenant", id);
    if let Some((_, name)) = best {
        d = d.line(b"prefer", name);
    }
    d.line(b"cache", b"host 5").decide() // as long as a dead machine may be preferred
}

const P1: u64 = 0x9E3779B185EBCA87;
const P2: u64 = 0xC2B2AE3D27D4EB4F;
const P3: u64 = 0x165667B19E3779F9;
const P4: u64 = 0x85EBCA77C2B2AE63;
const P5: u64 = 0x27D4EB2F165667C5;

/// XXH64, seed 0, of "<machine> <tenant>".
fn xxhash64(machine: &[u8], tenant: &[u8]) -> u64 {
    let mut room = [0u8; 128];
    let mut n = 0;
    for part in [machine, b" ", tenant] {
        for &c in part {
            if n < room.len() {
                room[n] = c;
                n += 1;
            }
        }
    }
    let (mut rest, len) = (&room[..n], n as u64);
    let word = |b: &[u8]| b.iter().rev().fold(0u64, |w, &c| w << 8 | c as u64);
    let round = |acc: u64, w: u64| acc.wrapping_add(w.wrapping_mul(P2)).rotate_left(31).wrapping_mul(P1);
    let mut hash = P5;
    if n >= 32 {
        let mut v = [P1.wrapping_add(P2), P2, 0, 0u64.wrapping_sub(P1)];
        while rest.len() >= 32 {
            for (i, acc) in v.iter_mut().enumerate() {
                *acc = round(*acc, word(&rest[8 * i..8 * i + 8]));
            }
            rest = &rest[32..];
        }
        hash = v[0].rotate_left(1).wrapping_add(v[1].rotate_left(7))
            .wrapping_add(v[2].rotate_left(12)).wrapping_add(v[3].rotate_left(18));
        for acc in v {
            hash = (hash ^ round(0, acc)).wrapping_mul(P1).wrapping_add(P4);
        }
    }
    hash = hash.wrapping_add(len);
    while rest.len() >= 8 {
        hash = (hash ^ round(0, word(&rest[..8]))).rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
        rest = &rest[8..];
    }
    if rest.len() >= 4 {
        hash = (hash ^ word(&rest[..4]).wrapping_mul(P1)).rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
        rest = &rest[4..];
    }
    for &c in rest {
        hash = (hash ^ (c as u64).wrapping_mul(P5)).rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ hash >> 33).wrapping_mul(P2);
    hash = (hash ^ hash >> 29).wrapping_mul(P3);
    hash ^ hash >> 32
}
