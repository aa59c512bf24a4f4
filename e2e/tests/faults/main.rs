//! What goes wrong on the way, one promise each: real registries, the real program, and a proxy between them that does
//! what networks, balancers and registries do on bad days.
//!
//! Every scenario ends with [`Way::check`] or [`Way::heals`], which walk the target and read the proxies' logs: no tag
//! names anything that is not there, little is sent or read twice, credentials stay with their hosts, requests are few,
//! and the report says what is so. `make faults` runs everything; the part of `make test` takes samples of the sweeps.
#![cfg(test)]

mod answers;
mod content;
mod downloads;
mod kills;
mod limits;
mod links;
mod logins;
mod outages;
mod uploads;
mod way;
