//! Structures of the output as grammars: the engine's side. `workers.rs` compiles them, and works out the masks.
//!
//! - [`Compilation`]: a structure on its way to a grammar; requests with the same one share it
//! - [`Grammars`]: the compiled grammars, of which those used last are kept

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use octavo_wire::Structure;

use crate::queue::Inbox;
use crate::turn::{Lexer, Turn};
use crate::vocabulary::OpenVocabulary;
use crate::workers::Workers;

/// Compiled grammars that are kept, and the memory of their lexers.
const MAX_KEPT: usize = 128;
const MAX_KEPT_BYTES: usize = 256 << 20;
/// Longer compilations fail.
const MAX_COMPILATION: Duration = Duration::from_secs(5);

/// A structure on its way to a grammar, or what became of it.
pub(crate) struct Compilation {
    pub structure: Structure,
    pub began: OnceLock<Instant>,
    /// The grammar before its first token.
    pub outcome: OnceLock<Result<Arc<Turn>, String>>,
    pub lexer: Arc<Lexer>,
}

impl Compilation {
    /// `None` while it is not done.
    pub fn outcome(&self) -> Option<&Result<Arc<Turn>, String>> {
        self.outcome.get()
    }
}

/// The engine's side of all grammars.
pub(crate) struct Grammars {
    workers: Arc<Workers>,
    kept: HashMap<Structure, Kept>,
    num_uses: u64,
}

struct Kept {
    compilation: Arc<Compilation>,
    used: u64,
}

impl Grammars {
    /// Threads start, and `open` is called, when the first grammar comes. `inbox` is woken when one is compiled.
    pub fn new(open: OpenVocabulary, vocab_size: u32, eos_token_ids: &[u32], inbox: Inbox) -> Self {
        let eos_token_ids: Vec<u32> = eos_token_ids.iter().copied().filter(|&token| token < vocab_size).collect();
        let open_factory = move || open()?.factory(vocab_size as usize, &eos_token_ids);
        let workers = Arc::new(Workers::new(Box::new(open_factory), inbox));
        Grammars { workers, kept: HashMap::new(), num_uses: 0 }
    }

    /// The grammar of a structure, or its compilation that has begun or begins. `None` when too many wait for theirs.
    pub fn compile(&mut self, structure: &Structure) -> Option<Arc<Compilation>> {
        self.num_uses += 1;
        if let Some(kept) = self.kept.get_mut(structure)
            && !kept.compilation.lexer.failed.load(Ordering::Relaxed)
        {
            kept.used = self.num_uses;
            return Some(kept.compilation.clone());
        }
        let structure = structure.clone();
        let compilation = Arc::new(Compilation {
            structure: structure.clone(),
            began: OnceLock::new(),
            outcome: OnceLock::new(),
            lexer: Arc::default(),
        });
        if !self.workers.compile(compilation.clone()) {
            return None;
        }
        self.make_room();
        self.kept.insert(structure, Kept { compilation: compilation.clone(), used: self.num_uses });
        Some(compilation)
    }

    /// Lets go of a grammar that cannot be used.
    pub fn forget(&mut self, structure: &Structure) {
        self.kept.remove(structure);
    }

    /// Fails a compilation that takes too long; another thread takes its place.
    pub fn check_time(&self, compilation: &Compilation) {
        if compilation.began.get().is_some_and(|began| began.elapsed() > MAX_COMPILATION) {
            let seconds = MAX_COMPILATION.as_secs();
            let overdue = format!("the grammar takes more than {seconds} seconds to compile");
            if compilation.outcome.set(Err(overdue)).is_ok() {
                self.workers.replace();
            }
        }
    }

    pub fn workers(&self) -> &Arc<Workers> {
        &self.workers
    }

    /// Forgets the grammars used longest ago, until one more may be kept.
    fn make_room(&mut self) {
        loop {
            let bytes: usize =
                self.kept.values().map(|kept| kept.compilation.lexer.num_bytes.load(Ordering::Relaxed)).sum();
            if self.kept.len() < MAX_KEPT && bytes <= MAX_KEPT_BYTES {
                return;
            }
            let Some((_, oldest)) = self.kept.iter().min_by_key(|(_, kept)| kept.used) else { return };
            let structure = oldest.compilation.structure.clone();
            self.kept.remove(&structure);
        }
    }
}

impl Drop for Grammars {
    fn drop(&mut self) {
        // Nobody joins the threads: a compilation may take its time.
        self.workers.close();
    }
}
