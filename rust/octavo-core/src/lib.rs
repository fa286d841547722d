//! The life of a request: queue, prefix hashes, blocks, scheduler, plan and commit.
