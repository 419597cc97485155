"""What holds a training back, what it will take, and the benches: `doctor`, `plan`, `bench`."""
