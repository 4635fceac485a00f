.PHONY: check format soak

check:  ## What continuous integration runs.
	.ci/run

format:  ## Format the code and repair what ruff can.
	uv run --extra test ruff format .
	uv run --extra test ruff check --fix .

soak:  ## 200 kills at random moments, and nothing is lost; some twenty minutes.
	uv run --extra test python tests/reliability/soak.py --kills 200
