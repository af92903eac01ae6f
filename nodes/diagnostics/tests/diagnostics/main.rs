//! Tests of the public interface, with SIP addresses on loopback.

mod sip_prober;
