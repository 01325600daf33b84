//! P15: who asks, for what, and how the instance is found.

use crate::rig::{OTHER, Rig, json_lines, set_attribute, text};
use cairn::id::{InstanceId, TierId};
use cairn::tier::tape::{TapeOptions, TapeTier};
use cairn::tier::{Expect, OpenHow};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

#[test]
fn p15_the_caller_is_who_the_kernel_says() {
    let rig = Rig::new();
    rig.run(&["stage", "--key", "mine", "new"]);
    let asked = rig.fake.asked();
    assert_eq!(asked[0].peer.uid, rustix::process::geteuid().as_raw());
    assert_ne!(asked[0].peer.pid, std::process::id());
    let Some(shown) = rig.as_other(&["stage", "new"]) else {
        return;
    };
    assert_eq!(shown.stdout, b"2\n", "{}", text(&shown));
    let peer = rig.fake.asked()[1].peer.clone();
    assert_eq!((peer.uid, peer.gid, peer.groups), (OTHER, OTHER, vec![]));
    let audit = rig.audit();
    assert_eq!(
        (&audit[1]["uid"], &audit[1]["request"]),
        (&OTHER.into(), &2.into())
    );
    assert_eq!(
        (&audit[1]["path"], &audit[1]["subjects"]),
        (&"new".into(), &1.into())
    );
}

#[test]
fn p15_others_requests_are_seen_without_paths_and_not_cancelled() {
    let rig = Rig::new();
    rig.file("tree/slow", 10);
    rig.run(&["stage", "--key", "secret", "slow"]);
    let Some(shown) = rig.as_other(&["requests", "--json"]) else {
        return;
    };
    let view = &json_lines(&shown.stdout)[0];
    assert_eq!(view["request"], 1);
    assert!(
        view.get("paths").is_none() && view.get("key").is_none(),
        "{view}"
    );
    let refused = rig.as_other(&["cancel", "1"]).unwrap();
    assert_eq!(refused.status.code(), Some(5), "{}", text(&refused));
    assert_eq!(rig.audit().last().unwrap()["result"], "not-permitted");
}

#[test]
fn p15_a_path_is_opened_by_the_caller_never_by_the_server() {
    let rig = Rig::new();
    rig.file("tree/private/file", 10);
    let private = rig.path("tree/private");
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    let Some(shown) = rig.as_other(&["state", "private/file"]) else {
        return;
    };
    assert_eq!(shown.status.code(), Some(5), "{}", text(&shown));
    let shown = rig.as_other(&["stage", "private/file"]).unwrap();
    assert_eq!(shown.status.code(), Some(5), "{}", text(&shown));
    assert_eq!(rig.fake.asked(), [], "nothing reached the engine");
}

#[test]
fn symbolic_links_are_named_not_followed() {
    let rig = Rig::new();
    std::os::unix::fs::symlink("new", rig.path("tree/link")).unwrap();
    let shown = rig.run(&["state", "link"]);
    assert_eq!(shown.stdout, b"link: symlink\n");
    rig.run(&["archive", "--wait", "link"]);
    let view = &json_lines(&rig.run(&["requests", "1", "--json"]).stdout)[0];
    assert_eq!(view["files"], 0);
}

#[test]
fn the_mount_itself_tells_where_its_socket_is() {
    let rig = Rig::new();
    let socket = rig.path("doors/control.sock");
    let tree = rig.path("tree");
    if !set_attribute(
        &tree,
        "user.cairn.socket",
        socket.as_os_str().as_encoded_bytes(),
    ) {
        eprintln!("SKIPPED the_mount_itself_tells: no user attributes on this filesystem");
        return;
    }
    let outside = |args: &[&str], from: &str| {
        let mut command = rig.command(args);
        command
            .env_remove("CAIRN_SOCKET")
            .current_dir(from)
            .output()
            .unwrap()
    };
    let file = rig.path("tree/sub/cold");
    let shown = outside(&["state", file.to_str().unwrap()], "/");
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown));
    let absent = rig.path("tree/sub/absent/deeper");
    let shown = outside(&["state", absent.to_str().unwrap()], "/");
    assert_eq!(shown.status.code(), Some(1), "{}", text(&shown));
    let shown = outside(&["requests"], tree.to_str().unwrap());
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown));
    let shown = outside(&["state", "/usr"], "/");
    assert_eq!(shown.status.code(), Some(3), "{}", text(&shown));
}

#[test]
fn without_an_instance_commands_exit_with_3() {
    let mut rig = Rig::new();
    rig.stop();
    for args in [
        &["state", "new"][..],
        &["requests"],
        &["stage", "new"],
        &["status"],
    ] {
        let shown = rig.run(args);
        assert_eq!(shown.status.code(), Some(3), "{}", text(&shown));
        assert!(String::from_utf8_lossy(&shown.stderr).contains("hint: "));
    }
}

#[test]
fn a_library_that_lost_its_state_is_made_again_by_import_alone() {
    let rig = Rig::new();
    let root = rig.path("library");
    let options = TapeOptions {
        capacity: Some(8 << 20),
        cartridges: 1,
        ..TapeOptions::default()
    };
    let how = OpenHow {
        owner: InstanceId([9; 16]),
        expect: Expect::New(TierId(7)),
    };
    let tier = TapeTier::open(&root, &options, how).unwrap();
    let barcode = tier.library().unwrap().cartridges()[0].entry.barcode;
    let barcode = barcode.to_string();
    drop(tier);
    let state = root.join("library.json");
    fs::remove_file(&state).unwrap();
    let image = rig.path(&format!("{barcode}.tap"));
    fs::rename(root.join(format!("cartridges/{barcode}.tap")), &image).unwrap();
    let (root, image) = (root.to_str().unwrap(), image.to_str().unwrap());
    for args in [
        &["list"][..],
        &["show", &barcode],
        &["verify", &barcode],
        &["export", &barcode],
        &["retire", &barcode],
        &["label", &barcode],
    ] {
        let args: Vec<&str> = ["tape", "--tier", root]
            .iter()
            .chain(args)
            .copied()
            .collect();
        let shown = rig.run(&args);
        assert_eq!(shown.status.code(), Some(6), "{args:?}: {}", text(&shown));
        let said = String::from_utf8_lossy(&shown.stderr).into_owned();
        assert!(
            said.contains("no library.json") && said.contains("hint: "),
            "{said}"
        );
        assert!(!state.exists(), "{args:?}");
    }
    let shown = rig.run(&["tape", "--tier", root, "import", image]);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown));
    let shown = rig.run(&["tape", "--tier", root, "list"]);
    assert!(text(&shown).contains(&barcode), "{}", text(&shown));
    let shown = rig.run(&["tape", "--tier", root, "label", "--count", "1000"]);
    assert!(text(&shown).contains("999"), "{}", text(&shown));
}

/// One raw HTTP exchange; the body of the answer.
fn raw(rig: &Rig, request: &str) -> String {
    let mut stream = UnixStream::connect(rig.path("doors/control.sock")).unwrap();
    stream.write_all(request.as_bytes()).unwrap();

    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn post(rig: &Rig, route: &str, body: &str) -> String {
    let length = body.len();
    raw(
        rig,
        &format!(
            "POST {route} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        ),
    )
}

#[test]
fn whatever_is_sent_gets_an_error_body_with_a_code() {
    let rig = Rig::new();
    let token = "00".repeat(16);
    let forged = format!(
        r#"{{"schema":"cairn.submission.v1","verb":"stage","part":{{"last":true}},
            "subjects":[{{"token":"{token}","path":"/etc/shadow"}}]}}"#
    );
    for (route, body, status, code) in [
        ("/v1/requests", "not json", 400, "usage"),
        ("/v1/requests", "{}", 400, "usage"),
        ("/v1/requests", forged.as_str(), 400, "usage"),
        (
            "/v1/why",
            r#"{"schema":"cairn.why-query.v9","subject":{"token":"","path":""}}"#,
            400,
            "usage",
        ),
        ("/v1/nowhere", "", 404, "not-found"),
        ("/v1/requests/x/cancel", "", 404, "not-found"),
        ("/v1/requests/77/cancel", "", 404, "not-found"),
        ("/v1/status", "", 404, "not-found"),
    ] {
        let answer = post(&rig, route, body);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{route}: {answer}"
        );
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            (&body["schema"], &body["code"]),
            (&"cairn.error.v1".into(), &code.into())
        );
    }
    assert_eq!(
        rig.fake.asked(),
        [],
        "a path without a descriptor reaches nobody"
    );
}

#[test]
fn a_second_server_on_the_same_sockets_is_refused_and_a_dead_ones_are_taken_over() {
    use cairn::server::{Server, ServerError, audit::Audit};
    let mut rig = Rig::new();
    let doors = rig.path("doors");
    let start = || {
        let fake = std::sync::Arc::new(crate::fake::Fake::default());
        Server::start(fake, &doors, Audit::nowhere())
    };
    assert!(matches!(start(), Err(ServerError::InUse { .. })));
    assert!(
        rig.run(&["status"]).status.success(),
        "the first one still answers"
    );
    rig.stop();
    drop(std::os::unix::net::UnixListener::bind(doors.join("control.sock")).unwrap());
    let second = start().unwrap();
    assert!(rig.run(&["status"]).status.success());
    assert_eq!(
        fs::metadata(second.socket()).unwrap().permissions().mode() & 0o777,
        0o666
    );
    second.stop();
}

/// The command ends within a minute.
fn ends(mut command: std::process::Command) -> std::process::Output {
    use std::process::Stdio;
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    for _ in 0..6000 {
        if child.try_wait().unwrap().is_some() {
            return child.wait_with_output().unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    panic!("{command:?} found the doors shut");
}

/// A hundred calls of one user that do not return, and as many connections that say nothing,
/// stall neither the administrator nor another user.
#[test]
fn one_user_stalls_nobody_else() {
    use std::os::unix::process::CommandExt;
    let rig = Rig::new();
    let Some(other) = rig.command_of(OTHER + 1, &["requests", "--json"]) else {
        return;
    };
    *rig.fake.held.lock().unwrap() = Some(OTHER);
    let script = "import socket,sys,time\n\
        def dial():\n s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); return s\n\
        calls=[dial() for n in range(100)]\n\
        for s in calls: s.sendall(b'GET /v1/status HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n')\n\
        mute=[dial() for n in range(100)]\n\
        for s in mute: s.sendall(b'POST /v1/requests HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: 1000000\\r\\n\\r\\n')\n\
        print('sent', flush=True)\n\
        time.sleep(3600)\n";
    let mut busy = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(rig.path("doors/control.sock"))
        .uid(OTHER)
        .gid(OTHER)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut sent = [0; 5];
    busy.stdout.take().unwrap().read_exact(&mut sent).unwrap();
    crate::rig::until("the calls hang", || {
        rig.fake.holding.load(std::sync::atomic::Ordering::SeqCst) >= 4
    });
    let shown = ends(other);
    let mine = ends(rig.command(&["status"]));
    *rig.fake.held.lock().unwrap() = None;
    busy.kill().unwrap();
    busy.wait().unwrap();
    assert!(shown.status.success(), "{}", text(&shown));
    assert!(mine.status.success(), "{}", text(&mine));
}

#[test]
fn a_body_that_is_too_large_is_refused_before_it_comes() {
    let rig = Rig::new();
    let mut stream = UnixStream::connect(rig.path("doors/control.sock")).unwrap();
    let patience = std::time::Duration::from_secs(60);
    stream.set_read_timeout(Some(patience)).unwrap();
    let head = "POST /v1/requests HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                content-length: 9000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 400");
}
