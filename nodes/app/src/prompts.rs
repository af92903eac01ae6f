//! Prompts of the administrator: replicated, and played by this node as soon as they arrive.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use twinbox_mailstore::{PromptKey, PromptsChange, PromptsWatch};

use crate::node::Node;

/// Applies all stored prompts; the returned watch reports later ones.
pub async fn begin(node: &Node) -> PromptsWatch {
    let watch = node.mailstore.watch_prompts();
    all(node).await;
    watch
}

/// Follows changes of prompts until stopped.
pub async fn watch(node: Arc<Node>, mut changes: PromptsWatch, stop: CancellationToken) {
    loop {
        let change = tokio::select! {
            change = changes.next() => change,
            () = stop.cancelled() => return,
        };
        match change {
            Some(PromptsChange::One(key)) => one(&node, &key).await,
            Some(PromptsChange::All) => all(&node).await,
            None => return,
        }
    }
}

async fn all(node: &Node) {
    let there = match node.mailstore.custom_prompts().await {
        Ok(there) => there,
        Err(error) => return warn!(%error, "the custom prompts cannot be read"),
    };
    for name in node.config.prompts.replaced() {
        if !there.iter().any(|prompt| prompt.key.name == name && spoken(node, &prompt.key)) {
            set(node, &name, None);
        }
    }
    for prompt in there {
        one(node, &prompt.key).await;
    }
}

async fn one(node: &Node, key: &PromptKey) {
    if !spoken(node, key) {
        return;
    }
    match node.mailstore.custom_prompt(key).await {
        Ok(wav) => set(node, &key.name, wav.as_deref()),
        Err(error) => {
            warn!(prompt = %key, %error, "a custom prompt cannot be read; what was played before is played")
        }
    }
}

fn spoken(node: &Node, key: &PromptKey) -> bool {
    key.language == node.config.voicemail.language
}

fn set(node: &Node, name: &str, wav: Option<&[u8]>) {
    match node.config.prompts.replace(name, wav) {
        Ok(()) => info!(prompt = name, custom = wav.is_some(), "a prompt has changed"),
        Err(error) => warn!(prompt = name, %error, "a custom prompt cannot be played"),
    }
}
