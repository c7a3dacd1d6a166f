"""`python -m fp8doctor` is the command `fp8doctor`."""

from fp8doctor.cli import main

if __name__ == "__main__":
    main()
