//! Tests of the public interface: certificates of a member, by a clock that the tests set.

mod ca_rotation;
mod member;
mod renewal;
