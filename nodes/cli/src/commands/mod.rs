//! One module per top-level command.

pub mod alarm;
pub mod ca;
pub mod call;
pub mod cluster;
pub mod config;
pub mod cos;
pub mod dns;
pub mod doctor;
pub mod duty;
pub mod events;
pub mod health;
pub mod help;
pub mod import;
pub mod join;
pub mod message;
pub mod operator;
pub mod prompt;
pub mod run;
pub mod service;
pub mod steering;
pub mod user;
pub mod users;
