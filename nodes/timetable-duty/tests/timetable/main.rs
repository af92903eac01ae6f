//! The duty `timetable`, over real stores and a real gate.

mod backups;
mod interrupted;
mod runs;
mod support;
mod works;
