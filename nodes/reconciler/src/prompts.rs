//! Prompts of the administrator: replicated, and played by this node as soon as they arrive.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use twinbox_mailstore::{Mailstore, PromptKey, PromptsChange, PromptsWatch};
use twinbox_prompts::Prompts;

/// Prompts of the administrator on one node.
#[derive(Clone)]
pub struct CustomPrompts {
    /// Store of the replicated prompts.
    pub mailstore: Mailstore,
    /// Prompts that this node plays.
    pub prompts: Arc<Prompts>,
    /// Language of this node.
    pub language: String,
}

impl CustomPrompts {
    /// Applies all stored prompts; the returned watch reports later ones.
    pub fn apply_all(&self) -> BoxFuture<'_, PromptsWatch> {
        async move {
            let watch = self.mailstore.watch_prompts();
            self.all().await;
            watch
        }
        .boxed()
    }

    /// Follows changes of prompts until stopped.
    pub fn follow(self, mut changes: PromptsWatch, stop: CancellationToken) -> BoxFuture<'static, ()> {
        async move {
            loop {
                let change = tokio::select! {
                    change = changes.next() => change,
                    () = stop.cancelled() => return,
                };
                match change {
                    Some(PromptsChange::One(key)) => self.one(&key).await,
                    Some(PromptsChange::All) => self.all().await,
                    None => return,
                }
            }
        }
        .boxed()
    }

    async fn all(&self) {
        let stored = match self.mailstore.custom_prompts().await {
            Ok(stored) => stored,
            Err(error) => return warn!(%error, "the custom prompts cannot be read"),
        };
        for name in self.prompts.replaced() {
            if !stored.iter().any(|prompt| prompt.key.name == name && self.plays(&prompt.key)) {
                self.set(&name, None);
            }
        }
        for prompt in stored {
            self.one(&prompt.key).await;
        }
    }

    async fn one(&self, key: &PromptKey) {
        if !self.plays(key) {
            return;
        }
        match self.mailstore.custom_prompt(key).await {
            Ok(wav) => self.set(&key.name, wav.as_deref()),
            Err(error) => warn!(prompt = %key, %error, "custom prompt cannot be read; the former one stays"),
        }
    }

    fn plays(&self, key: &PromptKey) -> bool {
        key.language == self.language
    }

    fn set(&self, name: &str, wav: Option<&[u8]>) {
        match self.prompts.replace(name, wav) {
            Ok(()) => info!(prompt = name, custom = wav.is_some(), "prompt has changed"),
            Err(error) => warn!(prompt = name, %error, "custom prompt cannot be played"),
        }
    }
}
