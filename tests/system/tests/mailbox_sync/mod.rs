//! Voicemail in mail accounts of a Dovecot: changes of both sides, lost connections, full and lost accounts, hostile
//! servers, access tokens.

mod access;
mod agreement;
mod faults;

/// Port of the proxy at the phones' place.
const PROXY: u16 = 1144;
