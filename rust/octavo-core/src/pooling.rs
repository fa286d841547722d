//! Prompts that are pooled instead of answered: what an engine can make of them, and what of it a step has made.
//!
//! A pooled prompt is scheduled as any other, and ends with the step that computes its last token. Where the result
//! needs more than the last token, the prompt runs whole, in one step: hidden states of earlier steps, and of tokens
//! from the prefix cache, are not kept.

use octavo_wire::{MAX_FRAME_BYTES, PooledOutput, Pooling, PoolingTask, RequestId};

use crate::config::EngineConfig;

/// Beside the numbers of a result, its frame has at most so many bytes.
const FRAME_OVERHEAD: usize = 256;

/// What the model of an engine makes of prompts; it generates nothing then.
#[derive(Clone, Debug)]
pub struct PoolingLimits {
    pub tasks: Vec<PoolingTask>,
    /// Those of them that need the whole prompt in one step.
    pub whole: Vec<PoolingTask>,
    /// Elements of a vector.
    pub width: u32,
    /// Numbers of a classification.
    pub num_labels: u32,
}

/// A prompt of a step that the backend has to pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolRow {
    /// Among the requests of the step.
    pub index: usize,
    pub pooling: Pooling,
    /// All its tokens are in this step; otherwise only the last one counts.
    pub is_whole: bool,
}

/// What the backend made of one prompt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pooled {
    pub index: usize,
    pub shape: Vec<u32>,
    pub data: Vec<f32>,
}

impl Pooled {
    pub fn into_output(self, request: RequestId, num_cached_tokens: u32) -> PooledOutput {
        PooledOutput { request, shape: self.shape, data: self.data, num_cached_tokens }
    }
}

impl PoolingLimits {
    /// Numbers of each vector of a result, and whether there is one for each token.
    fn shape(&self, pooling: &Pooling) -> (u32, bool) {
        match pooling.task {
            PoolingTask::Embed => (pooling.dimensions.unwrap_or(self.width), false),
            PoolingTask::TokenEmbed => (pooling.dimensions.unwrap_or(self.width), true),
            PoolingTask::Classify | PoolingTask::Score => (self.num_labels, false),
            PoolingTask::TokenClassify | PoolingTask::Reward => (self.num_labels, true),
        }
    }

    pub(crate) fn is_whole(&self, task: PoolingTask) -> bool {
        self.whole.contains(&task)
    }
}

/// Why a prompt cannot be pooled, if so; `num_prompt` is above 0.
pub(crate) fn check(config: &EngineConfig, pooling: &Pooling, num_prompt: usize) -> Result<(), String> {
    let Some(limits) = &config.pooling else {
        return Err("this model generates text; to pool prompts, serve it with --runner pooling".into());
    };
    let task = pooling.task.as_str();
    if !limits.tasks.contains(&pooling.task) {
        let known: Vec<_> = limits.tasks.iter().map(|task| task.as_str()).collect();
        return Err(format!("this model has no task {task}; it has {}", known.join(", ")));
    }
    if let Some(dimensions) = pooling.dimensions {
        if !matches!(pooling.task, PoolingTask::Embed | PoolingTask::TokenEmbed) {
            return Err(format!("dimensions: the task {task} makes no vectors that could be shortened"));
        }
        if dimensions == 0 || dimensions > limits.width {
            return Err(format!("dimensions: must be between 1 and {}, not {dimensions}", limits.width));
        }
    }
    if num_prompt > config.max_model_len as usize {
        return Err(format!(
            "the prompt has {num_prompt} tokens, more than the {} that the model takes",
            config.max_model_len
        ));
    }
    if limits.is_whole(pooling.task) && num_prompt > config.max_num_batched_tokens as usize {
        return Err(format!(
            "the task {task} takes a prompt whole, and this one has {num_prompt} tokens; a step has {} \
             (--max-num-batched-tokens)",
            config.max_num_batched_tokens
        ));
    }
    let (numbers, each_token) = limits.shape(pooling);
    let rows = if each_token { num_prompt } else { 1 };
    if rows * numbers as usize * size_of::<f32>() + FRAME_OVERHEAD > MAX_FRAME_BYTES {
        return Err(format!("{numbers} numbers for each of {num_prompt} tokens are more than one answer holds"));
    }
    Ok(())
}
