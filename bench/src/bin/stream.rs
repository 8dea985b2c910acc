//! What signing costs the server, and whether the listener keeps up: `bench/stream`.
//!
//! A sender on one core says signed announcements at a steady rate. In turn, the listener on the other core is
//! rollcall-listen, which verifies and prints to a file, and a bare recvfrom loop that does nothing.

use std::error::Error;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use argh::FromArgs;
use rollcall::cli::now_ns;
use rollcall::keyfile;
use rollcall::lan::sockets;
use rollcall::protocol;
use rollcall::protocol::announcer::Announcer;
use rollcall::protocol::status::{Email, Status};

/// Measures the signed stream: rollcall-listen beside a bare recvfrom loop.
#[derive(FromArgs)]
struct Args {
    /// announcements per second (default 100000)
    #[argh(option, default = "100_000")]
    rate: u32,
    /// seconds of each run (default 5)
    #[argh(option, default = "5")]
    seconds: u32,
    /// announcements in a batch (default 64)
    #[argh(option, default = "64")]
    batch: usize,
    /// how often each is run (default 5)
    #[argh(option, default = "5")]
    rounds: u32,
    /// rollcall-listen
    #[argh(positional)]
    listener: PathBuf,
    /// a folder for the key pair and the output
    #[argh(positional)]
    folder: PathBuf,
}

fn main() -> ExitCode {
    let done = match &std::env::args().collect::<Vec<_>>()[..] {
        [_, word] if word == "bare" => bare(),
        _ => measure(&argh::from_env()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stream: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The bare loop. Says its port, and at the end of its input how many came.
fn bare() -> Result<(), Box<dyn Error>> {
    let socket = sockets::receiver((Ipv4Addr::LOCALHOST, 0).into())?;
    println!("{}", socket.local_addr()?.port());
    let over = thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let (mut buffer, mut count) = (vec![0; 1 << 16], 0_u64);
    while !over.is_finished() {
        if socket.recv_from(&mut buffer).is_ok() {
            count += 1;
        }
    }
    println!("{count}");
    Ok(())
}

fn measure(args: &Args) -> Result<(), Box<dyn Error>> {
    let key = args.folder.join("stream.key");
    let public = args.folder.join("stream.pub");
    run(Command::new("openssl").args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(&key))?;
    run(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&key).arg("-out").arg(&public))?;
    signing(&key)?;
    run(Command::new("taskset").args(["-cp", "0", &std::process::id().to_string()]).stdout(Stdio::null()))?;
    println!("{} announcements/s for {} s in batches of {}", args.rate, args.seconds, args.batch);
    println!(
        "{:<16} {:>9} {:>9} {:>9} {:>8} {:>12}",
        "listener", "sent", "sent/s", "heard", "lost", "us CPU each"
    );
    for _ in 0..args.rounds {
        let mut announcer = Announcer::new(keyfile::signing_key(&key)?, now_ns());
        let count = args.rate as usize * args.seconds as usize;
        let statuses = statuses(args.batch);
        let said: Vec<Vec<u8>> =
            std::iter::repeat_with(|| announcer.announce(&statuses)).flatten().take(count).collect();
        for name in ["rollcall-listen", "bare recvfrom"] {
            let listener = match name {
                "bare recvfrom" => Listener::bare()?,
                _ => Listener::ours(args, &public)?,
            };
            let rate = count as f64 / say(&said, listener.port, args)?.as_secs_f64();
            // Whatever is in the buffer is heard.
            thread::sleep(Duration::from_millis(500));
            let (heard, cpu) = listener.end()?;
            let lost = (count as f64 - heard as f64) / count as f64 * 100.0;
            let each = cpu.as_secs_f64() * 1e6 / heard as f64;
            println!("{name:<16} {count:>9} {rate:>9.0} {heard:>9} {lost:>7.2}% {each:>12.2}");
        }
    }
    Ok(())
}

/// What numbering, hashing and signing cost beside the plain encoding of version 1.
fn signing(key: &Path) -> Result<(), Box<dyn Error>> {
    println!("{:<16} {:>12} {:>12} {:>12}", "batch", "v1 us each", "v2 us each", "v2 bytes");
    for batch in [1, 64, 512] {
        let mut announcer = Announcer::new(keyfile::signing_key(key)?, now_ns());
        let statuses = statuses(batch);
        let rounds = 20_000 / batch;
        let bytes = announcer.announce(&statuses)[0].len();
        let signed = time(rounds, || drop(black_box(announcer.announce(&statuses))));
        let plain = time(rounds, || {
            for status in &statuses {
                let mut datagram = Vec::with_capacity(protocol::MAX_PREFIX);
                protocol::encode(status, &mut datagram);
                black_box(datagram);
            }
        });
        let each = |time: Duration| time.as_secs_f64() * 1e6 / (rounds * batch) as f64;
        println!("{batch:<16} {:>12.3} {:>12.3} {bytes:>12}", each(plain), each(signed));
    }
    Ok(())
}

fn time(rounds: usize, mut work: impl FnMut()) -> Duration {
    let start = Instant::now();
    (0..rounds).for_each(|_| work());
    start.elapsed()
}

/// A batch at a time, each when it is due. How long did it take?
fn say(said: &[Vec<u8>], port: u16, args: &Args) -> Result<Duration, Box<dyn Error>> {
    let voice = UdpSocket::bind("127.0.0.1:0")?;
    voice.connect(("127.0.0.1", port))?;
    let start = Instant::now();
    for (number, batch) in said.chunks(args.batch).enumerate() {
        let due = start + Duration::from_secs_f64((number * args.batch) as f64 / f64::from(args.rate));
        // Sleeping would be late by more than a batch takes.
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        for datagram in batch {
            voice.send(datagram)?;
        }
    }
    Ok(start.elapsed())
}

struct Listener {
    child: Child,
    port: u16,
    is_bare: bool,
}

impl Listener {
    fn bare() -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new("taskset")
            .args(["-c", "1"])
            .arg(std::env::current_exe()?)
            .arg("bare")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        // Nothing follows its port until it is told to end, so that nothing is read too early.
        BufReader::new(child.stdout.as_mut().ok_or("no output")?).read_line(&mut line)?;
        Ok(Self { child, port: line.trim().parse()?, is_bare: true })
    }

    fn ours(args: &Args, public: &Path) -> Result<Self, Box<dyn Error>> {
        let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new("taskset")
            .args(["-c", "1"])
            .arg(&args.listener)
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--json", "--key"])
            .arg(public)
            .stdout(File::create(args.folder.join("heard"))?)
            .stderr(Stdio::piped())
            .spawn()?;
        let bound = format!("0100007F:{port:04X} ");
        let start = Instant::now();
        while !fs::read_to_string("/proc/net/udp")?.contains(&bound) {
            if start.elapsed() > Duration::from_secs(10) {
                return Err("rollcall-listen does not listen".into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(Self { child, port, is_bare: false })
    }

    /// How many it heard, and the CPU time that it took.
    fn end(mut self) -> Result<(u64, Duration), Box<dyn Error>> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // User and system time are columns 14 and 15, in hundredths of a second (proc(5)).
        let columns = stat.rsplit_once(')').ok_or("stat")?.1.split_ascii_whitespace().skip(11).take(2);
        let ticks: u64 = columns.map(|ticks| ticks.parse::<u64>().unwrap_or(0)).sum();
        let mut said = String::new();
        if self.is_bare {
            drop(self.child.stdin.take());
            BufReader::new(self.child.stdout.take().ok_or("no output")?).read_line(&mut said)?;
        } else {
            run(Command::new("kill").args(["-INT", &self.child.id().to_string()]))?;
            self.child.stderr.take().ok_or("no errors")?.read_to_string(&mut said)?;
            let (_, new) = said.rsplit_once(", new ").ok_or("no totals")?;
            said = new.split(',').next().unwrap_or_default().to_owned();
        }
        self.child.wait()?;
        Ok((said.trim().parse()?, Duration::from_millis(ticks * 10)))
    }
}

fn run(command: &mut Command) -> Result<(), Box<dyn Error>> {
    match command.status()?.success() {
        true => Ok(()),
        false => Err(format!("{command:?} failed").into()),
    }
}

fn statuses(count: usize) -> Vec<Status> {
    let status = |i| Status {
        email: Email::new(&format!("user{i:04}@qt-test.com")).expect("an email"),
        last_seen_ns: now_ns(),
        ip: Ipv4Addr::new(192, 0, 2, 1).into(),
        port: 50_000,
    };
    (0..count).map(status).collect()
}
