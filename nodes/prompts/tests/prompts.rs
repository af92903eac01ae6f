//! The prompts as played in a call: embedded ones, and those of an administrator's directory.

use std::{collections::HashSet, fs, path::Path};

use tempfile::TempDir;
use twinbox_conversation::phrases;
use twinbox_prompts::{Origins, PromptError, Prompts};
use twinbox_rtp::{Codec, g711, wav};

/// A ramp, so that every law and byte order gives a different result.
fn ramp() -> Vec<i16> {
    (-400..400).map(|n| n * 40).collect()
}

/// A directory of prompts with these files.
fn directory(files: &[(&str, Vec<u8>)]) -> TempDir {
    let dir = TempDir::new().expect("a directory");
    for (name, bytes) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, bytes).expect("a file");
    }
    dir
}

fn load(dir: &TempDir) -> Result<Prompts, PromptError> {
    Prompts::load(Some(dir.path()), "en")
}

fn linear() -> Vec<u8> {
    ramp().iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

#[test]
fn every_prompt_of_the_conversation_is_embedded() {
    let prompts = Prompts::load(None, "en").expect("the embedded prompts");
    let required = phrases::required_prompts();
    assert_eq!(prompts.missing(&required), Vec::<String>::new());
    assert_eq!(prompts.missing(["vm-intro", "vm-nonsense", "digits/77"]), ["vm-nonsense", "digits/77"]);
    // And no unused ones, except the tone.
    let required: HashSet<_> = required.iter().map(String::as_str).collect();
    let idle: Vec<_> = prompts.names().into_iter().filter(|name| !required.contains(name)).collect();
    assert_eq!(idle, ["beep"]);
    assert_eq!(prompts.origins(), &Origins { total: required.len() + 1, ..Origins::default() });
}

#[test]
fn embedded_prompts_have_plausible_length_and_loudness() {
    let prompts = Prompts::load(None, "en").expect("the embedded prompts");
    let mut total = 0;
    for name in prompts.names() {
        let ulaw = prompts.get(name, Codec::Pcmu).expect("in µ-law");
        let alaw = prompts.get(name, Codec::Pcma).expect("in A-law");
        assert_eq!(ulaw.len(), alaw.len(), "{name}");
        // The tone is computed in both laws; other prompts are µ-law files.
        let transcoded = g711::transcode(Codec::Pcmu, Codec::Pcma, &ulaw);
        assert!(name == "beep" || transcoded == alaw, "{name} differs between the laws");
        let ms = ulaw.len() / 8;
        assert!((200..=15_000).contains(&ms), "{name} takes {ms} ms");
        let loudest = g711::decode(Codec::Pcmu, &ulaw).into_iter().map(i16::unsigned_abs).max().unwrap_or(0);
        assert!((8_000..=30_000).contains(&loudest), "{name} reaches {loudest}");
        total += ulaw.len();
    }
    assert!(total < 2_100_000, "{total} bytes of prompts are too many for a repository");
}

#[test]
fn texts_and_sounds_name_the_same_prompts() {
    let texts = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/texts/en.txt")).expect("the texts");
    let lines = texts.lines().filter(|line| !line.starts_with('#'));
    let mut names: Vec<_> = lines.filter_map(|line| line.split_once('|')).map(|(name, _)| name.trim()).collect();
    names.push("beep");
    names.sort_unstable();
    let prompts = Prompts::load(None, "en").expect("the embedded prompts");
    assert_eq!(names, prompts.names(), "texts/en.txt has changed: run ./make-prompts");
}

#[test]
fn prompts_are_said_one_after_the_other_without_those_that_are_missing() {
    let prompts = Prompts::load(None, "en").expect("the embedded prompts");
    let one = |name| prompts.get(name, Codec::Pcma).expect("a prompt");
    let said = prompts.say(["digits/7", "vm-nonsense", "digits/1"], Codec::Pcma);
    assert_eq!(said, [one("digits/7"), one("digits/1")].concat());
}

#[test]
fn a_prompt_is_shared_by_all_calls() {
    let prompts = Prompts::load(None, "en").expect("the embedded prompts");
    let (one, other) = (prompts.clone(), prompts);
    let address = |prompts: &Prompts| prompts.get("vm-intro", Codec::Pcma).expect("a prompt").as_ptr();
    assert_eq!(address(&one), address(&other));
    assert_eq!(one.get("vm-nonsense", Codec::Pcmu), None);
}

#[test]
fn beep_is_a_tone() {
    let prompts = Prompts::load(None, "en").expect("the embedded prompts");
    for codec in Codec::ALL {
        let samples = g711::decode(codec, &prompts.beep(codec));
        assert_eq!(samples.len(), 2_400, "300 ms");
        let crossings = samples.windows(2).filter(|pair| (pair[0] < 0) != (pair[1] < 0)).count();
        assert!((590..=610).contains(&crossings), "1,000 Hz cross zero 600 times in 300 ms, not {crossings}");
        assert!(samples.first().is_some_and(|s| s.unsigned_abs() < 20), "it does not click");
    }
}

#[test]
fn all_supported_asterisk_formats_are_read() {
    let ulaw = g711::encode(Codec::Pcmu, &ramp());
    let alaw = g711::encode(Codec::Pcma, &ramp());
    for (file, bytes, law) in [
        ("vm-intro.wav", wav::write_pcm16(&ramp()), None),
        ("vm-intro.wav", wav::write(Codec::Pcmu, &ulaw), Some(Codec::Pcmu)),
        ("vm-intro.wav", wav::write(Codec::Pcma, &alaw), Some(Codec::Pcma)),
        ("vm-intro.sln", linear(), None),
        ("vm-intro.sln8", linear(), None),
        ("vm-intro.ulaw", ulaw.clone(), Some(Codec::Pcmu)),
        ("vm-intro.alaw", alaw.clone(), Some(Codec::Pcma)),
    ] {
        let prompts = load(&directory(&[(file, bytes)])).unwrap_or_else(|error| panic!("{file}: {error}"));
        // In its file's law a prompt is bit-identical to the file; linear audio is encoded in both laws.
        for codec in Codec::ALL {
            let original = if codec == Codec::Pcmu { &ulaw } else { &alaw };
            let wanted = match law {
                Some(law) if law != codec => {
                    g711::transcode(law, codec, if law == Codec::Pcmu { &ulaw } else { &alaw })
                }
                _ => original.clone(),
            };
            assert!(prompts.get("vm-intro", codec).as_deref() == Some(&wanted[..]), "{file} as {codec}");
        }
        assert_eq!(prompts.origins().overridden, 1);
    }
}

#[test]
fn a_directory_overrides_file_by_file() {
    let embedded = Prompts::load(None, "en").expect("the embedded prompts");
    let ulaw = g711::encode(Codec::Pcmu, &ramp());
    let dir = directory(&[
        ("digits/7.ulaw", ulaw.clone()),
        ("beep.ulaw", ulaw.clone()),
        // Two files of one name: WAV has priority.
        ("vm-last.ulaw", vec![0; 10]),
        ("vm-last.wav", wav::write_pcm16(&ramp())),
        // Not read: other formats and unused names, even if broken.
        ("vm-first.gsm", vec![1, 2, 3]),
        ("vm-first.g722", vec![1, 2, 3]),
        ("demo-congrats.wav", b"no WAV".to_vec()),
    ]);
    let prompts = load(&dir).expect("a set");
    for name in ["digits/7", "vm-last", "beep"] {
        assert!(prompts.get(name, Codec::Pcmu).as_deref() == Some(&ulaw[..]), "{name} is not overridden");
    }
    assert_eq!(prompts.beep(Codec::Pcmu), ulaw);
    for name in ["digits/8", "vm-first", "vm-intro"] {
        assert!(
            prompts.get(name, Codec::Pcmu) == embedded.get(name, Codec::Pcmu),
            "{name} is not the embedded one"
        );
    }
    assert_eq!(prompts.get("demo-congrats", Codec::Pcmu), None);
    let origins = prompts.origins();
    assert_eq!((origins.overridden, &origins.unreadable[..]), (3, &["vm-first".to_owned()][..]));
}

#[test]
fn folder_of_the_language_is_preferred() {
    let ulaw = g711::encode(Codec::Pcmu, &ramp());
    let dir = directory(&[("de/vm-intro.ulaw", ulaw.clone()), ("vm-intro.ulaw", vec![0; 8])]);
    let german = Prompts::load(Some(dir.path()), "de").expect("German");
    assert_eq!(german.get("vm-intro", Codec::Pcmu).as_deref(), Some(&ulaw[..]));
    assert!(german.get("digits/7", Codec::Pcmu).is_some(), "what is missing is spoken in English");
    let english = Prompts::load(Some(dir.path()), "en_GB").expect("English");
    assert_eq!(english.get("vm-intro", Codec::Pcmu).as_deref(), Some(&[0; 8][..]));

    // A language must not lead out of the directory.
    let inner = dir.path().join("de");
    let outside = Prompts::load(Some(&inner), "..").map(|_| ()).expect_err("no language");
    assert!(matches!(outside, PromptError::Language { .. }), "{outside}");
}

#[test]
fn errors_name_the_file_and_the_remedy() {
    let stereo = {
        let mut file = wav::write_pcm16(&ramp());
        file[22] = 2;
        file
    };
    let wide = {
        let mut file = wav::write_pcm16(&ramp());
        file[24..28].copy_from_slice(&44_100u32.to_le_bytes());
        file
    };
    let cut = {
        let mut file = wav::write_pcm16(&ramp());
        file.truncate(100);
        file
    };
    for (file, bytes, says) in [
        ("vm-intro.wav", b"ID3 this is an MP3".to_vec(), "not a WAV file"),
        ("vm-intro.wav", Vec::new(), "not a WAV file"),
        ("vm-intro.wav", stereo, "sox in.wav -r 8000 -c 1"),
        ("vm-intro.wav", wide, "44100 Hz"),
        ("vm-intro.wav", cut, "incomplete"),
        ("vm-intro.wav", wav::write_pcm16(&[]), "no sound"),
        ("digits/7.ulaw", Vec::new(), "no sound"),
        ("vm-intro.sln", vec![1, 2, 3], "in the middle of a sample"),
        ("vm-intro.ulaw", vec![0; (8 << 20) + 1], "longer than any prompt"),
        ("vm-intro.wav/this-is-a-folder", vec![0], "make it readable or remove it"),
        ("vm-intro.mp3", vec![0; 10], "has none that Twinbox plays"),
    ] {
        let dir = directory(&[(file, bytes)]);
        let error = load(&dir).map(|_| ()).expect_err(file).to_string();
        let named = match file {
            "vm-intro.mp3" => dir.path().to_owned(),
            file => dir.path().join(file.trim_end_matches("/this-is-a-folder")),
        };
        assert!(error.contains(&named.display().to_string()), "{file} is not named: {error}");
        assert!(error.contains(says), "{file}: {error}");
    }
    let nowhere = Prompts::load(Some(Path::new("/no/such/directory")), "en").map(|_| ()).expect_err("no directory");
    assert!(nowhere.to_string().contains("/no/such/directory: No such file"), "{nowhere}");
    let klingon = Prompts::load(None, "tlh").map(|_| ()).expect_err("no such language");
    assert!(klingon.to_string().contains("'tlh'"), "{klingon}");
}

#[test]
fn prompt_is_replaced_while_in_use_and_restored() {
    let prompts = Prompts::load(None, "en").expect("the embedded prompts");
    let in_use = prompts.clone();
    let get = |name| in_use.get(name, Codec::Pcmu).expect("a prompt");
    let (before, beep) = (get("vm-intro"), in_use.beep(Codec::Pcmu));
    let own = g711::encode(Codec::Pcmu, &ramp());
    for name in ["vm-intro", "beep"] {
        prompts.replace(name, Some(&wav::write(Codec::Pcmu, &own))).expect("taken");
    }
    assert_eq!((&get("vm-intro")[..], &in_use.beep(Codec::Pcmu)[..]), (&own[..], &own[..]));
    assert_eq!(in_use.replaced(), ["beep", "vm-intro"]);
    // A broken WAV file, or an unknown prompt name, changes nothing.
    assert!(Prompts::check("vm-intro", b"RIFF").is_err());
    assert!(prompts.replace("vm-intro", Some(b"RIFF")).is_err());
    prompts.replace("vm-nonsense", Some(&wav::write(Codec::Pcmu, &own))).expect("taken");
    assert_eq!(in_use.get("vm-nonsense", Codec::Pcmu), None);
    assert_eq!(&get("vm-intro")[..], &own[..]);
    for name in ["vm-intro", "beep"] {
        prompts.replace(name, None).expect("back");
    }
    assert_eq!((get("vm-intro"), in_use.beep(Codec::Pcmu)), (before, beep));
}
