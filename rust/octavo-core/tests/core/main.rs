//! The core as its users see it: commands in, plans and reports out.
//!
//! `simulator` runs the plans on a cache that remembers histories, `device` checks the columns that only a GPU needs, and
//! `history` counts as a GPU does;
//! `beam` knows what a beam search must find; `random` lets chance choose the commands; the others each assert one behaviour.

mod async_decode;
mod attention_work;
mod beam;
mod device;
mod grammar;
mod history;
mod lifecycle;
mod pooling;
mod prefix;
mod random;
mod scheduling;
mod scores;
mod simulator;
