mod kernel;
#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().init();
    let k = kernel::Kernel::load(&kernel::Options {
        cgroup: Some(std::env::args().nth(1).unwrap().into()),
        pin_path: "/tmp/lead-bpf/idlefirst-smoke".into(),
    });
    match k {
        Ok(k) => {
            k.attach().unwrap();
            println!("{:?}", k.programs());
            println!("{:?}", k.connections());
        }
        Err(e) => println!("{e}"),
    }
}
