//! Machines that exist for one test: a Debian 12 with a disk and a network namespace of its own, and systemd as its first
//! process (systemd-nspawn(1)).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use crate::guardian;
use crate::namespace::Namespace;
use crate::program::{PATIENCE, needs, needs_root, text};

/// A root with systemd, and the packages that ours depend on at hand but not installed. It is made once for many runs,
/// from the sources of Debian that this host has.
const ROOT: &str = r#"
[ ! -d "$1" ] || exit 0
rm -rf "$1.new" && mkdir -p "$1.new"
load() { echo "chroot \"\$1\" apt-get $*"; }
apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' | sort -u \
    | mmdebstrap --quiet --variant=minbase --skip=cleanup/apt --include=systemd,systemd-sysv,dbus,ca-certificates,iproute2,procps \
        --customize-hook='echo force-unsafe-io >"$1/etc/dpkg/dpkg.cfg.d/unsafe"' \
        --customize-hook="$(load update -q)" \
        --customize-hook="$(load install -y -q --download-only -o APT::Install-Recommends=true nginx postgresql postgresql-client curl openssl adduser logrotate)" \
        bookworm "$1.new" -
mv "$1.new" "$1"
"#;
/// The disk is a layer over the root, which goes with the mount namespace.
const BOOT: &str = r#"
mkdir "$2/upper" "$2/work" "$2/disk"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/disk"
exec systemd-nspawn --quiet --register=no --keep-unit --boot --console=pipe --resolv-conf=off --hostname="$4" \
    --directory="$2/disk" --network-namespace-path="/run/netns/$3"
"#;

/// Made by the first test that asks.
fn root() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/machine/bookworm");
        let output = Command::new("bash").args(["-euo", "pipefail", "-c", ROOT, "root"]).arg(&root).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", text(&output));
        root
    };
    MADE.get_or_init(make).clone()
}

pub struct Machine {
    nspawn: Child,
    /// Its systemd.
    first: u32,
    folder: PathBuf,
    /// It goes after the machine.
    _namespace: Namespace,
}

impl Machine {
    /// `None` where no machine can be made: the test is skipped.
    #[track_caller]
    pub fn possible() -> Option<()> {
        needs_root("for a Debian of its own")?;
        needs("mmdebstrap")?;
        needs("systemd-nspawn")?;
        let mut tried = Command::new("unshare");
        tried.args(["-m", "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--volatile=overlay"]);
        let output = tried.args(["--pipe", "--directory"]).arg(root()).arg("true").output().unwrap();
        if !output.status.success() {
            guardian::forbidden(&format!("systemd-nspawn starts nothing here: {}", text(&output)));
            return None;
        }
        Some(())
    }

    /// Boots. `folder` is for its disk.
    #[track_caller]
    pub fn boot(name: &str, folder: &Path, namespace: Namespace) -> Self {
        let folder = folder.join(name);
        fs::create_dir_all(&folder).unwrap();
        // It ends also if this test is killed.
        let mut nspawn = Command::new("timeout");
        nspawn.args(["--kill-after=9", "900", "unshare", "-m", "bash", "-euc", BOOT, "boot"]);
        nspawn.arg(root()).arg(&folder).args([&namespace.name, name]);
        let log = fs::File::create(folder.join("log")).unwrap();
        nspawn.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let nspawn = nspawn.spawn().unwrap();
        let child = |pid: u32| {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            children.split(' ').next()?.parse().ok()
        };
        let mut machine = Self { nspawn, first: 0, folder, _namespace: namespace };
        let log = machine.folder.join("log");
        let end = Instant::now() + PATIENCE;
        loop {
            let said = || fs::read_to_string(&log).unwrap_or_default();
            assert!(Instant::now() < end, "{name} does not boot: {}", said());
            thread::sleep(Duration::from_millis(100));
            let Some(first) = child(machine.nspawn.id()).and_then(child) else { continue };
            machine.first = first;
            if machine.shell("systemctl is-system-running --wait").output().unwrap().status.success() {
                return machine;
            }
        }
    }

    /// A shell of root's in there.
    pub fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-a", "-t", &self.first.to_string(), "env", "-i", "HOME=/", "LC_ALL=C.UTF-8"]);
        command.args(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
        command.args(["DEBIAN_FRONTEND=noninteractive", "bash", "-euo", "pipefail", "-c", script]);
        command.stdin(Stdio::null());
        command
    }

    #[track_caller]
    pub fn runs(&self, script: &str) -> String {
        let output = self.shell(script).output().unwrap();
        assert!(output.status.success(), "{script}: {}\n{}", text(&output), self.journal());
        text(&output)
    }

    #[track_caller]
    pub fn until(&self, script: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.shell(script).output().unwrap().status.success() {
            assert!(Instant::now() < end, "in vain: {script}\n{}", self.journal());
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn journal(&self) -> String {
        text(&self.shell("journalctl --no-pager -n 60 | cat").output().unwrap())
    }

    /// Puts a file there.
    #[track_caller]
    pub fn put(&self, file: &Path, path: &str) {
        let mut put = self.shell(&format!("cat >{path}"));
        let output = put.stdin(fs::File::open(file).unwrap()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // All its processes go with its first one.
        for (name, pid) in
            [("KILL", self.first), ("TERM", self.nspawn.id())].into_iter().filter(|(_, pid)| *pid != 0)
        {
            let _ = Command::new("kill").args(["-s", name, &pid.to_string()]).stderr(Stdio::null()).status();
        }
        let _ = self.nspawn.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
