//! Checks a directory of prompts: `cargo run -p twinbox-prompts --example try_prompts -- DIRECTORY [LANGUAGE]`
//! prints the overridden prompts, or the fault.

use std::{path::Path, process::ExitCode};

use twinbox_conversation::phrases;
use twinbox_prompts::Prompts;
use twinbox_rtp::Codec;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, language @ ..] = &arguments[..] else {
        eprintln!("usage: try_prompts DIRECTORY [LANGUAGE]");
        return ExitCode::from(2);
    };
    let language = language.first().map_or("en", String::as_str);
    let (own, embedded) = match (Prompts::load(Some(Path::new(dir)), language), Prompts::load(None, "en")) {
        (Ok(own), Ok(embedded)) => (own, embedded),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let same = |name: &&str| own.get(name, Codec::Pcmu) == embedded.get(name, Codec::Pcmu);
    let kept: Vec<_> = own.names().into_iter().filter(same).collect();
    println!("{} of {} prompts overridden", own.origins().overridden, own.origins().total);
    println!("missing: {:?}", own.missing(phrases::required_prompts()));
    println!("in formats that are not read: {:?}", own.origins().unreadable);
    println!("spoken by the embedded set: {}", kept.join(" "));
    ExitCode::SUCCESS
}
