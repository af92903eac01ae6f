//! baresip: a foreign telephone, driven through its control port. It plays a [`Speech`] from a file and records the
//! received audio in files, so that both can be compared bit for bit.

use std::{
    collections::HashMap,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    Found, NetPlace, Process, Speech,
    g711::{self, Law},
    holds, wait_for, wait_until,
};

/// Ports for calls and for control.
const SIP: u16 = 5080;
const CONTROL: u16 = 4444;
/// Module folders of Debian's package, below the architecture's own folder or not.
const MODULES: [&str; 2] = ["/usr/lib/baresip/modules", "/usr/lib/x86_64-linux-gnu/baresip/modules"];
/// Longer than any call of a test: baresip hangs up at the end of the file that it plays.
const FILE_SECONDS: usize = 60;

/// A running baresip, which answers every call immediately. Dropping it ends it.
pub struct Baresip {
    process: Process,
    files: PathBuf,
    address: SocketAddr,
    speech: Speech,
    spoken: usize,
    control: TcpStream,
    said: Arc<Mutex<Vec<Value>>>,
}

impl Baresip {
    /// Starts it as `user` at `place`, with its files in a separate folder below `folder`. It speaks for `seconds` from
    /// the beginning of each call, then is silent.
    pub fn start(place: &NetPlace, user: &str, seconds: usize, folder: &Path) -> Self {
        let (files, speech) = (folder.join(format!("baresip-{user}")), Speech::unique());
        fs::create_dir_all(&files).expect("its folder can be made");
        let write = |name: &str, bytes: &[u8]| fs::write(files.join(name), bytes).expect("its file can be written");
        let mut said = speech.bytes(0, seconds * 8000);
        said.resize(FILE_SECONDS * 8000, Law::Mu.silence());
        write("speech.wav", &g711::to_wav(&said, Law::Mu));
        // No registrar: calls go straight to the address that is dialled.
        let account =
            format!("<sip:{user}@{}>;regint=0;answermode=auto;audio_codecs=pcmu/8000/1\n", place.port(SIP));
        write("accounts", account.as_bytes());
        write("config", configuration(place, &files).as_bytes());
        let mut command = Command::new("baresip");
        command.arg("-f").arg(&files);
        let process = Process::start("baresip", command, place, &files.join("log"));
        let control = wait_for("baresip to listen", Duration::from_secs(20), || {
            assert!(!process.is_dead(), "baresip has ended:\n{}", process.tail(30));
            place.tcp(place.port(CONTROL)).ok()
        });
        let said = Arc::new(Mutex::new(Vec::new()));
        let (stream, kept) = (control.try_clone().expect("a connection can be shared"), said.clone());
        thread::spawn(move || listen(stream, &kept));
        Self { process, files, address: place.port(SIP), speech, spoken: seconds * 8000, control, said }
    }

    /// Its SIP address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its speech, and the maximum length spoken.
    pub fn speech(&self) -> (&Speech, usize) {
        (&self.speech, self.spoken)
    }

    /// Calls this URI and waits until it is answered.
    pub fn dial(&mut self, uri: &str) {
        self.send_command("dial", uri);
        self.wait("CALL_ESTABLISHED");
    }

    /// Presses these keys, one after the other.
    pub fn press(&mut self, keys: &str) {
        for key in keys.chars() {
            self.send_command("sndcode", &key.to_string());
            // It holds a key down until the next key or the release.
            thread::sleep(Duration::from_millis(120));
            self.send_command("sndcode", "\u{4}");
            thread::sleep(Duration::from_millis(80));
        }
    }

    /// Hangs up and waits for the end of the call.
    pub fn hang_up(&mut self) {
        self.send_command("hangup", "");
        self.wait("CALL_CLOSED");
    }

    /// Waits for the next event of this type since the last one waited for.
    pub fn wait(&self, event: &str) -> Value {
        wait_for(event, Duration::from_secs(20), || {
            assert!(!self.process.is_dead(), "baresip has ended:\n{}", self.process.tail(30));
            let mut said = self.events();
            let at = said.iter().position(|m| m["type"] == event)?;
            said.drain(..=at).next_back()
        })
    }

    /// The longest piece of this speech that it has received in any of its calls, once it is `seconds` long; `None`
    /// after 20 s without.
    pub fn hears(&self, (speech, spoken): (&Speech, usize), seconds: f64) -> Option<Found> {
        holds(Duration::from_secs(20), || {
            let heard = self.heard();
            let pieces = heard.iter().filter_map(|call| speech.find_in(call, spoken));
            pieces.max_by_key(|piece| piece.length).filter(|piece| piece.seconds() >= seconds)
        })
    }

    /// The received audio, one sequence of µ-law bytes per call.
    pub fn heard(&self) -> Vec<Vec<u8>> {
        let files = fs::read_dir(&self.files).into_iter().flatten().flatten().map(|entry| entry.path());
        let files = files.filter(|path| path.to_string_lossy().ends_with("-dec.wav"));
        files.filter_map(|path| Some(samples(&fs::read(path).ok()?))).collect()
    }

    /// Waits until it has received this many loud samples in one of its calls: a prompt plays.
    pub fn wait_sound(&self, samples: usize) {
        let loud = |byte: &&u8| Law::Mu.decode(**byte).abs() > 500;
        let enough = |call: &Vec<u8>| call.iter().filter(loud).count() >= samples;
        wait_until("baresip to hear something", Duration::from_secs(10), || self.heard().iter().any(enough));
    }

    /// The last lines of its log.
    pub fn tail(&self, lines: usize) -> String {
        self.process.tail(lines)
    }

    fn events(&self) -> MutexGuard<'_, Vec<Value>> {
        self.said.lock().expect("the listening thread does not panic")
    }

    /// A command, which must succeed.
    fn send_command(&mut self, command: &str, parameters: &str) {
        let token = crate::token();
        let text = serde_json::json!({ "command": command, "params": parameters, "token": token }).to_string();
        let sent = self.control.write_all(format!("{}:{text},", text.len()).as_bytes());
        sent.unwrap_or_else(|e| panic!("{e}\n{}", self.process.tail(30)));
        let answer = holds(Duration::from_secs(10), || {
            let mut said = self.events();
            let at = said.iter().position(|m| m["token"] == *token)?;
            Some(said.remove(at))
        });
        let done = answer.as_ref().is_some_and(|answer| answer["ok"] == true);
        assert!(done, "{command} {parameters:?}: {answer:?}\n{}", self.process.tail(30));
    }
}

/// Reads netstrings of JSON until the connection ends.
fn listen(mut stream: TcpStream, said: &Mutex<Vec<Value>>) {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..length]);
        while let Some((message, used)) = netstring(&bytes) {
            bytes.drain(..used);
            said.lock().expect("nobody panics with it").extend(message);
        }
    }
}

/// The first message, if it is JSON, and its length in bytes; `None` while it is incomplete.
fn netstring(bytes: &[u8]) -> Option<(Option<Value>, usize)> {
    let colon = bytes.iter().position(|b| *b == b':')?;
    let length: usize = std::str::from_utf8(&bytes[..colon]).ok()?.parse().ok()?;
    let text = bytes.get(colon + 1..colon + 1 + length)?;
    bytes.get(colon + 1 + length)?;
    Some((serde_json::from_slice(text).ok(), colon + 2 + length))
}

fn configuration(place: &NetPlace, files: &Path) -> String {
    let modules = MODULES.iter().find(|folder| Path::new(folder).is_dir()).unwrap_or(&MODULES[0]);
    let (sip, control, files) = (place.port(SIP), place.port(CONTROL), files.display());
    let mut text = format!(
        "statmode_default off\nsip_listen {sip}\nctrl_tcp_listen {control}\nmodule_path {modules}\nsnd_path {files}\n\
         audio_source aufile,{files}/speech.wav\naudio_player aubridge,nobody\naudio_alert aubridge,nobody\n\
         ausrc_srate 8000\nauplay_srate 8000\nausrc_channels 1\nauplay_channels 1\n"
    );
    for module in ["g711", "aufile", "aubridge", "sndfile"] {
        text += &format!("module {module}.so\n");
    }
    for module in ["account", "menu", "ctrl_tcp"] {
        text += &format!("module_app {module}.so\n");
    }
    text
}

/// The µ-law bytes of a file of linear samples, which may still be being written, with wrong lengths in its header. A
/// sample that is not of µ-law becomes silence: baresip's decoder has another zero.
fn samples(file: &[u8]) -> Vec<u8> {
    const HEAD: usize = 44;
    let table: HashMap<i16, u8> = (0..=255).map(|byte| (Law::Mu.decode(byte), byte)).collect();
    let data = file.get(HEAD..).unwrap_or_default().as_chunks::<2>().0;
    let byte = |sample: &[u8; 2]| table.get(&i16::from_le_bytes(*sample)).copied();
    data.iter().map(|sample| byte(sample).unwrap_or(Law::Mu.silence())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speech_file_survives_a_round_trip() {
        let said = Speech::unique().bytes(0, 4000);
        assert_eq!(samples(&g711::to_wav(&said, Law::Mu)), said);
        let mut unfinished = g711::to_wav(&said, Law::Mu);
        unfinished[40..44].fill(0);
        assert_eq!(samples(&unfinished), said);
    }

    #[test]
    fn netstrings_are_split_out_of_a_stream() {
        let (message, used) = netstring(b"8:{\"a\":1} ,3:").expect("a whole one");
        assert_eq!((message.map(|m| m["a"].clone()), used), (Some(1.into()), 11));
        assert_eq!(netstring(b"8:{\"a\":1}"), None);
    }
}
