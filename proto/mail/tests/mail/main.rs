//! Tests of mails as a whole, with mail-parser and Python as independent readers.

mod common;
mod compose;
mod dkim;
mod incoming;
mod vpim;
