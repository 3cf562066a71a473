package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// This file defines `atc policy`: what authors and operators of resolvers need.

func policyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Write, try and replace resolvers"}
	cmd.AddCommand(policyReloadCommand())
	return cmd
}

func policyReloadCommand() *cobra.Command {
	var where atcFinder
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have a running atc serve replace its resolver by [policy] and the module as they are now",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			client, err := where.dial(ctx)
			if err != nil {
				return err
			}
			defer client.Close()
			if err := client.ReloadPolicy(ctx); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "the resolver is replaced")
			return err
		},
	}
	where.flags(cmd)
	return cmd
}
