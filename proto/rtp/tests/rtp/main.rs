//! Tests of the public interface.

mod dtmf;
mod g711;
mod packet;
mod recorder;
mod rtcp;
mod wav;
