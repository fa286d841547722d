//! The two queues before a sequence runs: what the I/O thread brings ([`Inbox`]), and who waits for a row ([`Waiting`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use octavo_wire::Command;

use crate::request::{SequenceKey, Turn};

/// Commands on their way to the engine. Clones are the same queue.
#[derive(Clone, Default)]
pub struct Inbox(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
struct State {
    commands: Vec<Command>,
    /// Beside the commands something has changed.
    woken: bool,
    closed: bool,
}

impl Inbox {
    pub fn push(&self, command: Command) {
        self.state().commands.push(command);
        self.0.news.notify_one();
    }

    /// The front end has gone.
    pub fn close(&self) {
        self.state().closed = true;
        self.0.news.notify_one();
    }

    /// Ends the engine's wait although there is no command.
    pub(crate) fn wake(&self) {
        self.state().woken = true;
        self.0.news.notify_one();
    }

    /// Commands that the engine has not taken yet.
    pub fn len(&self) -> usize {
        self.state().commands.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Moves all commands into `commands`, which is empty; false when the front end has gone.
    pub(crate) fn take(&self, commands: &mut Vec<Command>) -> bool {
        let mut state = self.state();
        std::mem::swap(&mut state.commands, commands);
        state.woken = false;
        !state.closed
    }

    /// Blocks until there is something to take, at most `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) {
        let quiet = |state: &mut State| state.commands.is_empty() && !state.woken && !state.closed;
        let _ = self.0.news.wait_timeout_while(self.state(), timeout, quiet);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the commands whole.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sequences without a row, in the order of their turns: new ones, and preempted ones, which keep their turn.
#[derive(Default)]
pub(crate) struct Waiting(BTreeMap<Turn, SequenceKey>);

impl Waiting {
    pub fn push(&mut self, turn: Turn, key: SequenceKey) {
        self.0.insert(turn, key);
    }
    pub fn first(&self) -> Option<SequenceKey> {
        self.0.first_key_value().map(|(_, &key)| key)
    }
    pub fn remove(&mut self, turn: Turn) {
        self.0.remove(&turn);
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn keys(&self) -> impl Iterator<Item = SequenceKey> + '_ {
        self.0.values().copied()
    }
}
