"""`python -m w2s_ray` runs the command `w2s`."""

from w2s_ray.cli.main import main

if __name__ == "__main__":
    main()
