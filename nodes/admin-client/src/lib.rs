//! Parts that all commands share: the connection to a node, the failures that they report, lists in parts, uploads of files,
//! new PINs.

pub mod client;
mod error;
pub mod pages;
pub mod pin;
pub mod upload;

pub use client::RemoteNode;
pub use error::CliError;
