from incentive.cli import main

main()
