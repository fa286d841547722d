//! The core as its users see it: commands in, plans and reports out.
//!
//! `simulator` runs the plans on a cache that remembers histories; `random` lets chance choose the commands; the others
//! each assert one behaviour.

mod lifecycle;
mod prefix;
mod random;
mod scheduling;
mod simulator;
